//! A TCP proxy that misbehaves on demand.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{RUNTIME, block_on};

/// What happens to bytes on their way, in both directions and for all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Bytes wait, connections stay open: as behind a firewall that drops packets. They go on when the fault is over.
    Stall,
    /// Every connection is closed, new ones at once.
    Cut,
    /// Each piece of up to 64 KiB arrives this much later.
    Delay(Duration),
    /// Once: a Kafka request with this key reaches the broker, and its answer is lost with the connection.
    LoseAnswerTo {
        api_key: i16,
    },
    /// What MySQL sends waits on the connections that follow its binlog; others go on.
    HoldBinlog,
    /// The answer to a prepared `… IN (…)` of MySQL waits; everything else goes on.
    HoldRows,
}

/// Stops when dropped, and closes its connections.
pub struct Proxy {
    /// `host:port` on which it listens.
    pub address: String,
    target: Arc<Mutex<String>>,
    fault: watch::Sender<Fault>,
    answers: Arc<Answers>,
}

/// State of [`Fault::LoseAnswerTo`].
#[derive(Default)]
struct Answers {
    to_lose: AtomicBool,
    lost: AtomicU32,
    /// Of [`Fault::HoldBinlog`] and [`Fault::HoldRows`]: pieces that had to wait.
    held: AtomicU32,
}

/// What was asked last on a connection to MySQL.
#[derive(Default)]
struct Asked {
    binlog: AtomicBool,
    prepared_rows: AtomicBool,
    rows: AtomicBool,
}

impl Asked {
    /// Reads a command: its number stands after the length and the number of the packet.
    fn see(&self, bytes: &[u8]) {
        const PREPARE: u8 = 0x16;
        const EXECUTE: u8 = 0x17;
        const BINLOG_DUMP: u8 = 0x12;
        const BINLOG_DUMP_GTID: u8 = 0x1e;
        let Some(&command) = bytes.get(4) else { return };
        match command {
            BINLOG_DUMP | BINLOG_DUMP_GTID => self.binlog.store(true, Ordering::SeqCst),
            PREPARE => self.prepared_rows.store(bytes.windows(5).any(|part| part == b" IN ("), Ordering::SeqCst),
            _ => {}
        }
        self.rows.store(command == EXECUTE && self.prepared_rows.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn is_held(&self, fault: Fault) -> bool {
        match fault {
            Fault::HoldBinlog => self.binlog.load(Ordering::SeqCst),
            Fault::HoldRows => self.rows.load(Ordering::SeqCst),
            _ => false,
        }
    }
}

impl Proxy {
    /// Listens on a free port and passes on to `target` (`host:port`), which need not be there yet.
    pub fn to(target: &str) -> Self {
        let listener = block_on(TcpListener::bind("127.0.0.1:0")).expect("bind the proxy");
        let address = listener.local_addr().expect("a bound address").to_string();
        let (fault, seen) = watch::channel(Fault::None);
        let answers = Arc::new(Answers::default());
        let target = Arc::new(Mutex::new(target.to_owned()));
        RUNTIME.spawn(accept(listener, Arc::clone(&target), seen, Arc::clone(&answers)));
        Self { address, target, fault, answers }
    }

    /// Passes new connections on to another server; those there are stay.
    pub fn turn_to(&self, target: &str) {
        *self.target.lock() = target.to_owned();
    }

    pub fn set(&self, fault: Fault) {
        self.answers.to_lose.store(matches!(fault, Fault::LoseAnswerTo { .. }), Ordering::SeqCst);
        self.fault.send_replace(fault);
    }

    /// Pieces that [`Fault::HoldBinlog`] or [`Fault::HoldRows`] kept waiting so far.
    pub fn held_answers(&self) -> u32 {
        self.answers.held.load(Ordering::SeqCst)
    }

    /// How many answers [`Fault::LoseAnswerTo`] has lost.
    pub fn lost_answers(&self) -> u32 {
        self.answers.lost.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, target: Arc<Mutex<String>>, mut fault: watch::Receiver<Fault>, answers: Arc<Answers>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let target = target.lock().clone();
                    tokio::spawn(connect(client, target, fault.clone(), Arc::clone(&answers)));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => panic!("the proxy cannot accept: {error}"),
            },
            // The sender is gone: so is the proxy.
            () = closed(&mut fault) => return,
        }
    }
}

async fn connect(client: TcpStream, target: String, mut fault: watch::Receiver<Fault>, answers: Arc<Answers>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let doomed = AtomicBool::new(false);
    let asked = Asked::default();
    let held = &answers.held;
    let is_held = |fault: Fault| {
        let is_held = asked.is_held(fault);
        held.fetch_add(u32::from(is_held), Ordering::SeqCst);
        is_held
    };
    let asks = |bytes: &[u8], fault: Fault| {
        asked.see(bytes);
        if is_to_lose(bytes, fault) && answers.to_lose.swap(false, Ordering::SeqCst) {
            doomed.store(true, Ordering::SeqCst);
        }
        true
    };
    let may_answer = |_: &[u8], _: Fault| {
        let lost = doomed.load(Ordering::SeqCst);
        answers.lost.fetch_add(u32::from(lost), Ordering::SeqCst);
        !lost
    };
    // Whichever ends first drops both sockets.
    tokio::select! {
        () = pass(client_reads, server_writes, fault.clone(), |_| false, asks) => {}
        () = pass(server_reads, client_writes, fault.clone(), is_held, may_answer) => {}
        () = cut(&mut fault) => {}
    }
}

/// Do the bytes begin with a request of the key? It stands after the length of the request, and clients write a small request at once.
fn is_to_lose(bytes: &[u8], fault: Fault) -> bool {
    matches!(fault, Fault::LoseAnswerTo { api_key } if bytes.get(4..6) == Some(&api_key.to_be_bytes()))
}

/// Passes bytes on until one end closes or fails, or `may_pass` says no; they wait while `is_held` says so.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    is_held: impl Fn(Fault) -> bool,
    may_pass: impl Fn(&[u8], Fault) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let Ok(now) = fault.wait_for(|fault| *fault != Fault::Stall && !is_held(*fault)).await.map(|fault| *fault) else { return };
        if let Fault::Delay(time) = now {
            tokio::time::sleep(time).await;
        }
        if !may_pass(&buffer[..count], now) {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Returns when connections are to be closed.
async fn cut(fault: &mut watch::Receiver<Fault>) {
    // An error says that the proxy is gone, which closes them too.
    let _ = fault.wait_for(|fault| *fault == Fault::Cut).await;
}

/// Returns when the proxy is gone.
async fn closed(fault: &mut watch::Receiver<Fault>) {
    while fault.changed().await.is_ok() {}
}
