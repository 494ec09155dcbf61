//! The listener: bounds on connections, headers and the time they may take (contract E15).

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use super::{Site, router};
use crate::config::plan::HttpPlan;
use crate::flow::status::Overview;
use crate::metrics::Metrics;
use crate::model::Stop;

/// A bound address, not yet answering.
pub struct Server {
    listener: TcpListener,
    plan: HttpPlan,
}

/// Binds the address before anything else starts, so that a taken port ends the start at once.
pub async fn bind(plan: &HttpPlan) -> Result<Option<Server>, Stop> {
    let Some(listen) = plan.listen else { return Ok(None) };
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| Stop::Precondition(format!("http.listen {listen} cannot be used: {e}; choose another address or stop who has it")))?;
    let address: SocketAddr = listener.local_addr().map_err(|e| Stop::Precondition(format!("http.listen {listen}: {e}")))?;
    info!(http = %address, "listening");
    Ok(Some(Server { listener, plan: plan.clone() }))
}

impl Server {
    /// Answers until `stop` turns true; open connections are dropped then.
    pub async fn run(self, overview: Arc<Overview>, mut stop: watch::Receiver<bool>) -> Result<(), Stop> {
        let config = crate::config::describe_json(&overview.plan);
        let site = Arc::new(Site { metrics: Metrics::new(Arc::clone(&overview)), overview, config });
        let service = TowerToHyperService::new(router(site, &self.plan));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.plan.header_timeout)
            .max_buf_size(self.plan.header_bytes.max(8192))
            .max_headers(100);
        let slots = Arc::new(Semaphore::new(self.plan.connections));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|&stop| stop) => return Ok(()),
            };
            let connection = match accepted {
                Ok((connection, _)) => connection,
                Err(error) => {
                    // Out of file descriptors and the like: the daemon's work goes on, callers wait.
                    warn!("no connection could be accepted: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let serving = http.serve_connection(TokioIo::new(connection), service.clone());
            let mut stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    served = serving => if let Err(error) = served { debug!("connection ended: {error}") },
                    _ = stop.wait_for(|&stop| stop) => {}
                }
                drop(slot);
            });
        }
    }
}
