//! Which price an enriched item may carry: the one in the table when its order was placed, or one set since.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::simulate::{Money, PriceChange, Product};

/// A price change with the moment just before it was applied to the tables.
#[derive(Debug, Clone)]
pub struct Applied {
    pub change: PriceChange,
    pub at: Timestamp,
}

/// What is known of the prices of every product.
pub struct Prices {
    /// In order of time. The first holds since ever.
    by_product: HashMap<u64, Vec<(Timestamp, Money)>>,
    /// Changes that no item has shown yet.
    awaited: Vec<Applied>,
    /// Items that carried a price which was history when they were ordered.
    pub stale: u64,
    pub changes: u64,
    pub shown: u64,
}

/// Prices kept of one product; an item that waits longer than so many changes is judged by the oldest kept.
const KEPT: usize = 16;

impl Prices {
    pub fn new(products: &[Product]) -> Self {
        let by_product = products.iter().map(|p| (p.id, vec![(Timestamp::MIN, p.price)])).collect();
        Self { by_product, awaited: Vec::new(), stale: 0, changes: 0, shown: 0 }
    }

    /// Takes note of a change, before any item can carry it. A change not shown yet gives way to a later one of its product.
    pub fn change(&mut self, applied: Applied) {
        self.changes += 1;
        let history = self.by_product.entry(applied.change.product_id).or_default();
        history.push((applied.at, applied.change.to));
        if history.len() > KEPT {
            history.remove(0);
        }
        self.awaited.retain(|earlier| earlier.change.product_id != applied.change.product_id);
        self.awaited.push(applied);
    }

    /// Judges an item. Returns the change it is the first to show: its order was placed after that change.
    pub fn judge(&mut self, product: u64, placed: Timestamp, price: Money) -> Option<Applied> {
        let history = self.by_product.get(&product).map_or(&[][..], Vec::as_slice);
        let since = history.iter().rposition(|&(at, _)| at <= placed).unwrap_or(0);
        if !history[since..].iter().any(|&(_, legal)| legal == price) {
            self.stale += 1;
            return None;
        }
        let first = self.awaited.iter().position(|a| a.change.product_id == product && a.at <= placed && a.change.to == price)?;
        self.shown += 1;
        Some(self.awaited.swap_remove(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::products;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn change(second: i64, from: u32, to: u32) -> Applied {
        let change = PriceChange { product_id: 21, name: "Veg Parcel".into(), from: Money::rupees(from), to: Money::rupees(to) };
        Applied { change, at: at(second) }
    }

    #[test]
    fn an_item_carries_the_price_of_its_time_or_a_later_one() {
        let mut prices = Prices::new(&products());
        prices.change(change(10, 45, 47));
        assert!(prices.judge(21, at(9), Money::rupees(45)).is_none(), "ordered and joined before the change");
        assert!(prices.judge(21, at(9), Money::rupees(47)).is_none(), "ordered before, joined after: proves nothing");
        assert_eq!(prices.stale, 0);
        assert_eq!(prices.judge(21, at(11), Money::rupees(47)).map(|a| a.change.to), Some(Money::rupees(47)));
        assert!(prices.judge(21, at(12), Money::rupees(47)).is_none(), "shown once");
        assert_eq!((prices.stale, prices.changes, prices.shown), (0, 1, 1));
    }

    #[test]
    fn an_old_price_after_the_change_is_stale() {
        let mut prices = Prices::new(&products());
        prices.change(change(10, 45, 47));
        prices.change(change(20, 47, 46));
        prices.judge(21, at(21), Money::rupees(47));
        prices.judge(21, at(11), Money::rupees(45));
        prices.judge(99, at(11), Money::rupees(45));
        assert_eq!(prices.stale, 3);
    }
}
