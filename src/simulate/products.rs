//! The menu: 81 products, read from the same file that MySQL is loaded from.

use anyhow::{Context, Result, bail};

use super::money::Money;

const MENU: &str = include_str!("../../apps/pizzashop/data/products.csv");
const COLUMNS: [&str; 5] = ["name", "description", "price", "category", "image"];

/// A row of `pizzashop.products` without its time stamps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// 1 to 81, in the order of the file.
    pub id: u64,
    pub name: String,
    pub description: String,
    pub category: String,
    pub price: Money,
    pub image: String,
}

/// The products of the shop, ids 1 to 81 in order.
pub fn products() -> Vec<Product> {
    read(MENU).expect("a test reads the file that is compiled in")
}

fn read(csv: &str) -> Result<Vec<Product>> {
    let mut lines = csv.lines();
    if fields(lines.next().unwrap_or_default())? != COLUMNS {
        bail!("the first line must be {}", COLUMNS.join(","));
    }
    let mut products = Vec::new();
    for (id, line) in (1..).zip(lines) {
        let place = || format!("product {id}");
        let [name, description, price, category, image] =
            fields(line).and_then(|f| <[String; 5]>::try_from(f).ok().context("needs five fields")).with_context(place)?;
        let price = Money::rupees(price.parse().context("price in whole rupees").with_context(place)?);
        products.push(Product { id, name, description, category, price, image });
    }
    Ok(products)
}

/// The fields of one line of CSV (RFC 4180): `a,"b, with ""quotes""",c`. A field never goes over a line's end in our files.
fn fields(line: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("it begins with one field");
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    if quoted {
        bail!("a quoted field does not end");
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_menu_has_the_figures_of_the_original() {
        let menu = products();
        assert_eq!(menu.len(), 81);
        assert!(menu.iter().zip(1..).all(|(product, id)| product.id == id));

        let mut categories = BTreeMap::new();
        for product in &menu {
            *categories.entry(product.category.as_str()).or_insert(0) += 1;
        }
        let expected = BTreeMap::from([
            ("side orders", 18),
            ("veg pizzas", 15),
            ("non veg pizzas", 11),
            ("pizza mania", 11),
            ("pasta", 6),
            ("beverages", 5),
            ("chicken lovers pizza", 4),
            ("chicken", 4),
            ("paratha pizza", 3),
            ("burger pizza", 3),
            ("choice of crusts", 1),
        ]);
        assert_eq!(categories, expected);

        let prices: Vec<u32> = menu.iter().map(|p| p.price.as_paise()).collect();
        assert_eq!((prices.iter().min(), prices.iter().max()), (Some(&2_500), Some(&70_900)));
        assert_eq!(prices.iter().sum::<u32>() / 81, 26_583, "mean 265.84 rupees, cut");
        assert!(prices.iter().all(|paise| paise % 100 == 0), "whole rupees");
        assert_eq!(menu.iter().map(|p| p.name.chars().count()).max(), Some(39));
        assert_eq!(menu.iter().map(|p| p.description.chars().count()).max(), Some(210));
        assert_eq!(menu.iter().filter(|p| p.description.is_empty()).count(), 16);
        assert_eq!(menu.iter().filter(|p| p.description.contains('"')).count(), 1);
    }

    #[test]
    fn products_that_other_tests_rely_on() {
        let menu = products();
        for (id, name, category, rupees) in [
            (1, "Moroccan Spice Pasta Pizza - Veg", "veg pizzas", 335),
            (2, "Pepsi (500ml)", "beverages", 60),
            (3, "Pepsi Black Can", "beverages", 60),
            (10, "Cheese Dip", "side orders", 25),
            (21, "Veg Parcel", "side orders", 45),
            (36, "7up (500ml)", "beverages", 60),
            (40, "Pepper Barbecue Chicken", "pizza mania", 455),
            (42, "Indo Fusion Chicken Pizza", "chicken lovers pizza", 709),
            (72, "Deluxe Veggie", "veg pizzas", 385),
            (73, "Pepper Barbecue Chicken", "non veg pizzas", 455),
            (76, "Brownie Fantasy", "side orders", 59),
            (81, "Veg Extravaganza", "veg pizzas", 450),
        ] {
            let product = &menu[id - 1];
            assert_eq!(
                (product.name.as_str(), product.category.as_str(), product.price),
                (name, category, Money::rupees(rupees)),
                "product {id}"
            );
            assert_eq!(product.image, format!("https://images.example/pizzashop/{id}.jpg"));
        }
        assert_eq!(menu[1].description, "");
        let mut names: Vec<&str> = menu.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 80, "one name stands for two products");
    }

    #[test]
    fn fields_may_be_quoted() {
        assert_eq!(fields(r#"a,"b, ""c""",,"#).expect("a line"), ["a", r#"b, "c""#, "", ""]);
        assert!(fields(r#"a,"b"#).is_err());
        assert!(read("name\n").is_err());
        assert!(read("name,description,price,category,image\na,b,1.5,c,d\n").is_err());
    }
}
