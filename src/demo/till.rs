//! The thread that owns the shop: places orders in Kafka and changes prices in the tables.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use jiff::Timestamp;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use super::prices::Applied;
use super::{BREATH, DRAIN, Options, TICK};
use crate::simulate::{Database, Shop};
use crate::table::Tables;

/// What the shop has sent, and what came of it.
#[derive(Default)]
pub struct Placed {
    pub orders: AtomicU64,
    pub items: AtomicU64,
    /// Items that have come out, counted by the reader.
    pub seen: AtomicU64,
}

impl Placed {
    fn on_their_way(&self) -> u64 {
        self.items.load(Ordering::Relaxed).saturating_sub(self.seen.load(Ordering::Relaxed))
    }
}

/// The shop takes no order while so many items are on their way: far less than the mock keeps (100,000 records a partition).
const ON_THEIR_WAY: u64 = 20_000;

/// The shop with all that it writes to.
pub struct Till<'a> {
    pub shop: Shop,
    pub database: Database,
    pub tables: &'a Tables,
    pub topic: &'a str,
    pub brokers: &'a str,
    pub placed: &'a Placed,
}

impl Till<'_> {
    /// Works until `closed` is raised and the last orders are sent. `changes` gets every price change before any item can carry it.
    pub fn keep(mut self, options: &Options, closed: &AtomicBool, changes: &SyncSender<Applied>) -> Result<()> {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", self.brokers)
            .set("linger.ms", "0")
            .set("partitioner", "murmur2_random")
            .create()
            .context("open the shop's producer")?;
        let (mut next_order, mut next_price) = (Instant::now(), Instant::now() + options.price_every);
        while !closed.load(Ordering::Acquire) {
            let now = Instant::now();
            if now >= next_price {
                next_price = now + options.price_every;
                if !self.change_price(changes) {
                    break;
                }
            }
            if now >= next_order {
                // A machine that is too slow for the rate gets a lower one, not a growing debt.
                if self.placed.on_their_way() < ON_THEIR_WAY {
                    self.place_order(&producer)?;
                }
                next_order = next_order.max(now - TICK) + options.rate.pause(self.shop.pause());
            }
            let next = next_order.min(next_price).min(now + BREATH);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        producer.flush(DRAIN).context("send the last orders")
    }

    fn place_order(&mut self, producer: &ThreadedProducer<DefaultProducerContext>) -> Result<()> {
        let order = self.shop.place_order(Timestamp::now());
        let value = order.json();
        producer.send(BaseRecord::to(self.topic).key(&order.id).payload(&value)).map_err(|(error, _)| error).context("place an order")?;
        self.placed.items.fetch_add(order.items.len() as u64, Ordering::Relaxed);
        self.placed.orders.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Announced first: no item may carry a price that its judge has not heard of. False when nobody listens any more.
    fn change_price(&mut self, changes: &SyncSender<Applied>) -> bool {
        let at = Timestamp::now();
        let change = self.shop.change_price();
        let index = usize::try_from(change.product_id - 1).expect("ids count from 1");
        let transaction = self.database.update(&self.shop.products()[index], at);
        let heard = changes.send(Applied { change, at }).is_ok();
        self.tables.apply(transaction);
        heard
    }
}
