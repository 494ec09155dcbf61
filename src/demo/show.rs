//! The thread that reads along: judges every enriched item and tells what happens.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use serde::Deserialize;

use super::latency::Latencies;
use super::prices::{Applied, Prices};
use super::till::Placed;
use super::{BREATH, DRAIN, TICK};
use crate::flow::status::{State, StreamStatus};
use crate::simulate::Money;

/// Items printed each second.
const SAMPLES: usize = 3;

/// Where the lines go. On a terminal, what is worth seeing is bold.
pub struct Screen<W> {
    pub out: W,
    pub bold: bool,
}

impl<W: Write> Screen<W> {
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    pub fn highlight(&mut self, text: &str) -> io::Result<()> {
        if self.bold { self.line(&format!("\x1b[1m{text}\x1b[0m")) } else { self.line(text) }
    }
}

/// Reads the enriched items, judges them, tells.
pub struct Show<'a, W> {
    consumer: BaseConsumer,
    changed: Receiver<Applied>,
    prices: Prices,
    placed: &'a Placed,
    status: &'a StreamStatus,
    screen: &'a mut Screen<W>,
    opened: Instant,
    /// When the first item came.
    warm: Option<Timestamp>,
    items: u64,
    latencies: Latencies,
    last: Second,
}

/// What the next line of the report tells.
#[derive(Default)]
struct Second {
    orders_before: u64,
    items: u64,
    latencies: Latencies,
    samples: Vec<String>,
}

impl<'a, W: Write> Show<'a, W> {
    /// `consumer` reads the enriched items; `changed` brings the news from the shop.
    pub fn new(
        consumer: BaseConsumer,
        changed: Receiver<Applied>,
        prices: Prices,
        placed: &'a Placed,
        status: &'a StreamStatus,
        screen: &'a mut Screen<W>,
    ) -> Self {
        let (latencies, last) = (Latencies::default(), Second::default());
        Self { consumer, changed, prices, placed, status, screen, opened: Instant::now(), warm: None, items: 0, latencies, last }
    }

    /// Tells every second how it goes, until it is over.
    pub fn until(&mut self, is_over: impl Fn() -> bool) -> Result<()> {
        let mut next_tick = self.opened + TICK;
        while !is_over() && !self.has_stopped() {
            self.step(next_tick.saturating_duration_since(Instant::now()).min(BREATH))?;
            if Instant::now() >= next_tick {
                self.report()?;
                next_tick += TICK;
            }
        }
        Ok(())
    }

    /// Waits for the items still on their way, and a little for items that should not come.
    pub fn drain(&mut self, worker_ended: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + DRAIN;
        while self.missing() > 0 && !worker_ended() && !self.has_stopped() && Instant::now() < deadline {
            self.step(BREATH)?;
        }
        while self.step(BREATH)? {}
        Ok(())
    }

    /// Takes the next item; false if none comes in time.
    pub fn step(&mut self, patience: Duration) -> Result<bool> {
        let message = self.consumer.poll(patience).transpose().context("read the enriched items")?;
        let value = message.map(|message| message.payload().unwrap_or_default().to_vec());
        // The news that made an item what it is were sent before the item was.
        while let Ok(applied) = self.changed.try_recv() {
            let change = &applied.change;
            self.screen.highlight(&format!(
                "  price  {} {} → {} in the table ({})",
                change.name,
                change.from,
                change.to,
                change.statement()
            ))?;
            self.prices.change(applied);
        }
        let Some(value) = value else { return Ok(false) };
        self.judge(&serde_json::from_slice(&value).context("an enriched item")?)?;
        Ok(true)
    }

    fn judge(&mut self, item: &Enriched) -> Result<()> {
        let placed = item.placed().with_context(|| format!("createdAt {} of an item", item.created_at))?;
        let latency = Timestamp::now().duration_since(placed).try_into().unwrap_or(Duration::ZERO);
        self.items += 1;
        self.placed.seen.store(self.items, Ordering::Relaxed);
        self.last.items += 1;
        let warm = match self.warm {
            Some(warm) => warm,
            None => self.warm_up(latency)?,
        };
        if placed >= warm {
            self.latencies.add(latency);
            self.last.latencies.add(latency);
        }
        let (order, quantity, product) = (item.order_id.get(..8).unwrap_or(&item.order_id), item.order_item.quantity, &item.product);
        if self.last.samples.len() < SAMPLES {
            self.last.samples.push(format!("         {order}  {quantity} × {} @ {}", product.name, product.price));
        }
        let id = product.id.parse().context("product id of an item")?;
        if let Some(Applied { change, .. }) = self.prices.judge(id, placed, Money::paise((product.price * 100.0).round() as u32)) {
            let (name, from, to, till) = (&change.name, change.from, change.to, item.order_item.price);
            let text = format!("  price  {name} {from} → {to}; next item carries {to} (order {order}, whose till still says {till})");
            self.screen.highlight(&text)?;
        }
        Ok(())
    }

    /// The first item waited for connections to be made; latencies are those of orders placed from here on.
    fn warm_up(&mut self, latency: Duration) -> io::Result<Timestamp> {
        self.screen.line(&format!("first item after {} ms; latencies count from here on", latency.as_millis()))?;
        Ok(*self.warm.insert(Timestamp::now()))
    }

    fn report(&mut self) -> Result<()> {
        let orders = self.placed.orders.load(Ordering::Relaxed);
        let Second { orders_before, items, latencies, samples } = &mut self.last;
        self.screen.line(&format!(
            "{:>4} s   {} orders ({}/s), {} items ({}/s), latency p50 {} p99 {}",
            self.opened.elapsed().as_secs(),
            grouped(orders),
            grouped(orders - *orders_before),
            grouped(self.items),
            grouped(*items),
            latencies.quantile(0.5),
            latencies.quantile(0.99),
        ))?;
        for sample in samples.drain(..) {
            self.screen.line(&sample)?;
        }
        (*orders_before, *items) = (orders, 0);
        latencies.clear();
        Ok(())
    }

    fn has_stopped(&self) -> bool {
        matches!(self.status.state(), State::Stopped { .. })
    }

    fn dead_letters(&self) -> u64 {
        self.status.dead_letters().values().sum()
    }

    /// Items placed that were neither seen nor dead-lettered; negative when some came twice.
    fn missing(&self) -> i64 {
        let placed = self.placed.items.load(Ordering::Relaxed);
        placed.cast_signed() - (self.items + self.dead_letters()).cast_signed()
    }

    /// The last line, and what must not have happened.
    pub fn conclude(self) -> Result<()> {
        let (missing, dead_letters) = (self.missing(), self.dead_letters());
        let Prices { stale, changes, shown, .. } = self.prices;
        self.screen.highlight(&format!(
            "stopped after {:.0} s: {} orders, {} items placed, {} enriched, {dead_letters} dead letters; \
             latency p50 {} p99 {}; price changes {changes}, seen in a later item {shown}",
            self.opened.elapsed().as_secs_f64(),
            grouped(self.placed.orders.load(Ordering::Relaxed)),
            grouped(self.placed.items.load(Ordering::Relaxed)),
            grouped(self.items),
            self.latencies.quantile(0.5),
            self.latencies.quantile(0.99),
        ))?;
        if let State::Stopped { reason, message } = self.status.state() {
            bail!("the stream stopped, {reason}: {message}");
        }
        verdict(missing, dead_letters, stale)
    }
}

/// What must not have happened: `missing` is negative where items came twice, `stale` counts items with a price of the past.
fn verdict(missing: i64, dead_letters: u64, stale: u64) -> Result<()> {
    ensure!(dead_letters == 0, "{dead_letters} items are dead letters, although every product exists");
    ensure!(missing <= 0, "{missing} items did not arrive");
    ensure!(missing == 0, "{} items arrived twice", -missing);
    ensure!(stale == 0, "{stale} items carried a price that was history when they were ordered");
    Ok(())
}

/// As much of an enriched item as is judged and shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Enriched {
    order_id: String,
    created_at: String,
    product: EnrichedProduct,
    order_item: EnrichedItem,
}

#[derive(Deserialize)]
struct EnrichedProduct {
    id: String,
    name: String,
    price: f64,
}

#[derive(Deserialize)]
struct EnrichedItem {
    quantity: u32,
    price: f64,
}

impl Enriched {
    /// The shop's times are UTC and do not say so.
    fn placed(&self) -> Result<Timestamp, jiff::Error> {
        Ok(self.created_at.parse::<DateTime>()?.to_zoned(TimeZone::UTC)?.timestamp())
    }
}

/// `10,081`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_happen_is_an_error() {
        assert!(verdict(0, 0, 0).is_ok());
        for (missing, dead_letters, stale, text) in
            [(3, 0, 0, "3 items did not arrive"), (-2, 0, 0, "2 items arrived twice"), (0, 1, 0, "dead letters"), (0, 0, 4, "history")]
        {
            assert!(verdict(missing, dead_letters, stale).is_err_and(|e| e.to_string().contains(text)), "{text}");
        }
    }

    #[test]
    fn items_are_read_as_the_stream_writes_them() {
        let item: Enriched = serde_json::from_str(
            r#"{"orderId":"7bcd4bbe-c1a6-4bb3-807e-386a837bc2b3","createdAt":"2022-09-13T05:22:53.617952",
                "product":{"id":"3","name":"Pepsi Black Can","description":"","category":"beverages","image":"","price":60},
                "orderItem":{"productId":"3","quantity":3,"price":60.0}}"#,
        )
        .expect("an item");
        assert_eq!(item.placed().expect("a time").to_string(), "2022-09-13T05:22:53.617952Z");
        assert_eq!((item.product.price, item.order_item.quantity), (60.0, 3));
    }

    #[test]
    fn thousands_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (10_081, "10,081"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
