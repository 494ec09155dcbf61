//! The binlog stream of one connection: verified events, in order, or the reason why there are no more.
//!
//! The checksum of an event is verified before any byte of it is ours to parse. `mysql_async` looks into table maps and payloads
//! by itself and may panic on damaged ones: its panics are caught here and become [`Error::Damaged`]. What MariaDB sends otherwise
//! than MySQL ends here: events come out as if they had never been compressed, and the first one without the checksum that the
//! library does not know of yet.

use std::panic::AssertUnwindSafe;
use std::str::FromStr as _;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use mysql_async::binlog::BinlogChecksumAlg;
use mysql_async::binlog::events::Event;
use mysql_async::prelude::Queryable as _;
use mysql_async::{BinlogStream, BinlogStreamRequest, Sid};

use super::connect::{self, Error};
use super::event::{RawEvent, kind};
use super::{mariadb, unpack};
use crate::config::plan::MysqlPlan;
use crate::model::Position;

/// After so many heartbeat periods without a byte the connection counts as lost.
const SILENT_PERIODS: u32 = 3;

/// How soon an idle server is asked to say where its binlog ends.
const EAGER: Duration = Duration::from_millis(100);

pub struct Binlog {
    stream: BinlogStream,
    silence: Duration,
    /// Bytes left of the payload being handed out; the events in it carry no checksum.
    payload: u64,
}

impl Binlog {
    /// Asks for everything after `from`: by GTID set where the server has GTIDs, else by file and offset.
    pub async fn open(plan: &MysqlPlan, from: &Position) -> Result<Self, Error> {
        Self::open_with(plan, from, plan.heartbeat).await
    }

    /// The same for whoever waits for the end of what there is: an idle server says soon that it is reached.
    pub async fn open_eager(plan: &MysqlPlan, from: &Position) -> Result<Self, Error> {
        Self::open_with(plan, from, EAGER.min(plan.heartbeat)).await
    }

    async fn open_with(plan: &MysqlPlan, from: &Position, heartbeat: Duration) -> Result<Self, Error> {
        let mut connection = connect::connect(plan).await?;
        let period = heartbeat.as_nanos();
        connection.query_drop(format!("SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}")).await?;
        let request = BinlogStreamRequest::new(plan.server_id);
        let stream = match &from.gtids {
            Some(gtids) if connect::is_mariadb(&connection) => {
                mariadb::prepare_stream(&mut connection, gtids).await?;
                connection.get_binlog_stream(request.with_pos(4_u64)).await?
            }
            Some(gtids) => {
                // The protocol wants one entry per uuid and tag.
                let sids = gtids.sources().map(|(source, intervals)| {
                    let tag = if source.tag.is_empty() { String::new() } else { format!(":{}", source.tag) };
                    let intervals: String = intervals.iter().map(|(first, last)| format!(":{first}-{last}")).collect();
                    Sid::from_str(&format!("{}{tag}{intervals}", source.uuid))
                });
                let sids = sids.collect::<Result<Vec<_>, _>>().map_err(|error| Error::Damaged(format!("our GTID set: {error}")))?;
                connection.get_binlog_stream(request.with_gtid().with_gtid_set(sids)).await?
            }
            None => {
                let file = from.file.as_bytes().to_vec();
                connection.get_binlog_stream(request.with_filename(&file).with_pos(from.offset)).await?
            }
        };
        Ok(Self { stream, silence: plan.heartbeat * SILENT_PERIODS, payload: 0 })
    }

    /// The next event if it is here already: `None` says that the server has nothing to send right now.
    pub fn poll_now(&mut self) -> Option<Result<BinlogEvent, Error>> {
        let mut polled = std::pin::pin!(AssertUnwindSafe(self.stream.next()).catch_unwind());
        polled.as_mut().now_or_never().map(|next| self.verified(next.map_err(|_| ())))
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<BinlogEvent, Error> {
        let polled = AssertUnwindSafe(self.stream.next()).catch_unwind();
        match tokio::time::timeout(self.silence, polled).await {
            Ok(next) => self.verified(next.map_err(|_| ())),
            Err(_) => Err(Error::Lost(format!("not even a heartbeat for {} s", self.silence.as_secs()))),
        }
    }

    fn verified(&mut self, next: Result<Option<Result<Event, mysql_async::Error>>, ()>) -> Result<BinlogEvent, Error> {
        let event = next
            .map_err(|()| Error::Damaged("the binlog stream has bytes that cannot be read".into()))?
            .ok_or_else(|| Error::Lost("the server ended the binlog stream".into()))??;
        let mut event = BinlogEvent { checksum_bytes: stray_checksum(&event), event, unpacked: None };
        let raw = event.raw();
        if self.payload > 0 {
            self.payload = self.payload.saturating_sub(u64::from(raw.size));
            return Ok(event);
        }
        event.verify()?;
        if let Some(unpacked) = unpack::unpacked(&raw).map_err(|fault| Error::Damaged(format!("before offset {}: {fault}", raw.end)))? {
            event.unpacked = Some(unpacked);
            return Ok(event);
        }
        if raw.kind == kind::TRANSACTION_PAYLOAD {
            self.payload =
                super::event::payload_size(raw.body).map_err(|fault| Error::Damaged(format!("a compressed transaction: {fault}")))?;
        }
        Ok(event)
    }
}

/// An event as it came.
pub struct BinlogEvent {
    event: Event,
    /// At the end of the body, which are none of it.
    checksum_bytes: usize,
    /// Type and body without MariaDB's compression.
    unpacked: Option<(u8, Vec<u8>)>,
}

/// The description of the binlog says whether events end with a checksum. MariaDB sends one event before it, a rotation to the file it
/// begins with, and that has one already.
fn stray_checksum(event: &Event) -> usize {
    let (header, data) = (event.header(), event.data());
    let Some((content, checksum)) = data.split_last_chunk::<4>() else { return 0 };
    if event.checksum().is_some() || header.event_type_raw() != kind::ROTATE {
        return 0;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header.timestamp().to_le_bytes());
    hasher.update(&[header.event_type_raw()]);
    for number in [header.server_id(), header.event_size(), header.log_pos()] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&header.flags_raw().to_le_bytes());
    hasher.update(content);
    if hasher.finalize() == u32::from_le_bytes(*checksum) { checksum.len() } else { 0 }
}

impl BinlogEvent {
    pub fn raw(&self) -> RawEvent<'_> {
        let header = self.event.header();
        let data = self.event.data();
        let (kind, body) = match &self.unpacked {
            Some((kind, body)) => (*kind, body.as_slice()),
            None => (header.event_type_raw(), &data[..data.len() - self.checksum_bytes]),
        };
        RawEvent {
            kind,
            flags: header.flags_raw(),
            timestamp: header.timestamp(),
            server_id: header.server_id(),
            size: header.event_size(),
            end: header.log_pos(),
            body,
        }
    }

    fn verify(&self) -> Result<(), Error> {
        let header = self.event.header();
        let algorithm = self.event.footer().get_checksum_alg();
        let Ok(algorithm) = algorithm else {
            return Err(Error::Damaged("the binlog uses an unknown checksum".into()));
        };
        let (Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32), Some(expected)) = (algorithm, self.event.checksum()) else {
            return Ok(());
        };
        let found = self.event.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32);
        if found == u32::from_le_bytes(expected) {
            return Ok(());
        }
        Err(Error::Damaged(format!(
            "the checksum of the event before offset {} is wrong (type {})",
            header.log_pos(),
            header.event_type_raw()
        )))
    }
}
