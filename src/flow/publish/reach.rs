//! Step 2 of reading tables: the binlog up to where the views end. Of a table read in part, changes of rows that are out are published;
//! in the window of the views, what happened to the other rows is kept as their net change.

use std::sync::Arc;

use mysql_async::Conn;

use super::Ended;
use super::leader::{Leader, Read};
use super::maker::{Kind, Published};
use super::progress::TableState;
use super::reading::Reading;
use super::writer::Common;
use crate::debezium::Snapshot;
use crate::model::{Position, TableId, Transaction};
use crate::mysql::assemble::Step;
use crate::mysql::connect;
use crate::mysql::place::Place;
use crate::mysql::snapshot;

/// Transactions looked at together: the server is asked once which of their rows are out.
const TRANSACTIONS: usize = 512;
const BYTES: usize = 4 << 20;

/// Transactions that wait for the server's answers.
#[derive(Default)]
struct Waiting {
    transactions: Vec<Transaction<Published>>,
    bytes: usize,
}

impl Leader<'_> {
    /// Sees everything up to `until`, and returns that position with the transactions that are really up to there: what the server calls
    /// executed lags behind file and offset, and behind what the views show.
    pub async fn reach(&mut self, readings: &mut [Reading], from: &Position, until: &Position) -> Result<Position, Ended> {
        let mut known = self.known();
        let mut start = from.clone();
        for reading in readings.iter() {
            known[reading.table.index()].locate = Some(Arc::clone(&reading.info));
            if let Some((at, _)) = reading.done.as_ref().filter(|(at, _)| start.contains(at)) {
                start = at.clone();
            }
        }
        let tables: Vec<TableId> = readings.iter().map(|reading| reading.table).collect();
        let mut stream = self.stream(&start, &tables, known, true).await?;
        let mut connection = connect::connect(&self.publisher.mysql).await?;
        let mut waiting = Waiting::default();
        while !stream.assembler.has_reached(until) {
            self.beat()?;
            match stream.read(waiting.transactions.is_empty()).await? {
                Read::Step(Step::Apply(transaction)) => {
                    waiting.bytes += transaction.changes.iter().map(Published::bytes).sum::<usize>();
                    waiting.transactions.push(transaction);
                    if waiting.transactions.len() >= TRANSACTIONS || waiting.bytes >= BYTES {
                        self.settle_waiting(readings, from, &mut waiting, &mut connection).await?;
                    }
                }
                Read::Idle => self.settle_waiting(readings, from, &mut waiting, &mut connection).await?,
                Read::Step(Step::Stop { table, reason, message }) => self.stop_table(table, reason, &message),
                // A statement before `until` is in the views, whose locks kept later ones away; rows that are out are another matter.
                Read::Step(Step::Reload(tables) | Step::Rewind(tables)) => {
                    for reading in readings.iter().filter(|reading| tables.contains(&reading.table) && reading.done.is_some()) {
                        self.compare(reading.table, "a statement changed it while it was read");
                    }
                    self.commit()?;
                    return Err(Ended::Again("a statement changed a table that is being read".into()));
                }
                Read::Step(Step::Check(table)) => self.check_columns(table, &stream).await?,
                Read::Step(Step::Ready(_) | Step::Part { .. } | Step::Columns(_)) | Read::Busy => {}
            }
        }
        self.settle_waiting(readings, from, &mut waiting, &mut connection).await?;
        self.commit()?;
        Ok(stream.assembler.position().clone())
    }

    async fn settle_waiting(
        &mut self,
        readings: &mut [Reading],
        from: &Position,
        waiting: &mut Waiting,
        connection: &mut Conn,
    ) -> Result<(), Ended> {
        let Waiting { transactions, .. } = std::mem::take(waiting);
        // Which of the rows are out? One question for each table, the answers in the order of the changes.
        let mut answers = Vec::with_capacity(readings.len());
        for reading in readings.iter() {
            let mut asked: Vec<Place> = Vec::new();
            for transaction in transactions.iter().filter(|transaction| reading.wants(transaction)) {
                for change in transaction.changes.iter().filter(|change| change.table == reading.table) {
                    asked.extend(change.places.iter().flat_map(|places| places.before.iter().chain(&places.after)).cloned());
                }
            }
            let beyond = match &reading.done {
                Some((_, place)) if !asked.is_empty() => {
                    snapshot::beyond(connection, self.plan(reading.table), &reading.info, place, &asked).await?
                }
                _ => Vec::new(),
            };
            answers.push(beyond.into_iter());
        }
        for transaction in transactions {
            let wanted: Vec<bool> = readings.iter().map(|reading| reading.wants(&transaction)).collect();
            let Transaction { changes, position, id, committed_us } = transaction;
            let in_window = !from.covers(&id, &position);
            let gtid = position.gtids.is_some().then_some(id.as_str());
            let common = Common { origin: &id, gtid, committed_us, part: None, last_part: None };
            for change in changes {
                let Some(index) = readings.iter().position(|reading| reading.table == change.table) else { continue };
                let reading = &mut readings[index];
                if !wanted[index] {
                    if in_window {
                        reading.net.take(&change);
                    }
                    continue;
                }
                let mut out = |there: bool| there && answers[index].next() == Some(false);
                let before_out = out(change.places.as_ref().is_some_and(|places| places.before.is_some()));
                let after_out = out(change.places.as_ref().is_some_and(|places| places.after.is_some()));
                // What of it belongs to rows that are out, and what to rows that will be read.
                let (out, kept) = match (change.kind, before_out, after_out) {
                    (Kind::Truncate, ..) => (Some(change), None),
                    (Kind::Update | Kind::Move, true, false) => (Some(change.as_delete()), Some(change.as_create())),
                    (Kind::Update | Kind::Move, false, true) => (Some(change.as_create()), Some(change.as_delete())),
                    (_, false, false) => (None, Some(change)),
                    _ => (Some(change), None),
                };
                if let Some(kept) = kept.filter(|_| in_window) {
                    reading.net.take(&kept);
                }
                if let Some(out) = out {
                    match self.writer.change(&out, &common, Snapshot::False, None) {
                        Ok(()) => self.publisher.status.count(out.table),
                        Err(refused) => self.refused(refused, &out)?,
                    }
                }
            }
            for (reading, _) in readings.iter_mut().zip(&wanted).filter(|(_, wanted)| **wanted) {
                if let Some((at, place)) = &mut reading.done {
                    *at = position.clone();
                    let state = TableState::Reading { at: position.clone(), place: place.to_string() };
                    self.set_state(reading.table, state);
                }
            }
            self.commit_if_due()?;
        }
        Ok(())
    }
}
