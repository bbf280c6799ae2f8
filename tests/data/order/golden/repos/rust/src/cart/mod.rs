mod item;
use self::item::Item;
use crate::money::{self, round};

pub struct Cart(Vec<Item>);

impl Cart {
    pub fn total(&self) -> f64 { money::round(round(1.0)) }
}
