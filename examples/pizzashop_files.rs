//! Writes the files of `apps/pizzashop` that are made from the model: `data/users.csv` and `load.sql`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/pizzashop");
    std::fs::write(shop.join("data/users.csv"), larder::simulate::users_csv())?;
    std::fs::write(shop.join("load.sql"), larder::simulate::load_sql())
}
