//! How far each stream is behind: asked of the brokers on a thread of its own, so that workers never wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::status::Overview;
use crate::kafka::client::Fault;
use crate::kafka::topics::Topics;
use crate::model::Stop;

const PERIOD: Duration = Duration::from_secs(2);

/// Refreshes the lag of every stream until `stop` is raised.
pub fn watch(overview: &Overview, stop: &AtomicBool) -> Result<(), Stop> {
    let topics = Topics::new(&overview.plan.kafka, &overview.plan.limits)
        .map_err(|fault| Stop::Configuration(format!("kafka.client: no client can be made: {fault:?}")))?;
    let mut next = Instant::now();
    while !stop.load(Ordering::Acquire) {
        if Instant::now() >= next {
            for stream in &overview.streams {
                // Brokers that are away are said by the stream itself; the last lag stands meanwhile.
                if let Ok(lag) = lag_of(&topics, &stream.from, stream.positions(), stop) {
                    stream.set_lag(lag);
                }
            }
            next = Instant::now() + PERIOD;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn lag_of(topics: &Topics, topic: &str, positions: impl IntoIterator<Item = (i32, i64)>, stop: &AtomicBool) -> Result<i64, Fault> {
    let mut lag = 0;
    for (partition, next) in positions {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let (first, end) = topics.watermarks(topic, partition)?;
        lag += (end - next.max(first)).max(0);
    }
    Ok(lag)
}
