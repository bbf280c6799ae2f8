use super::super::money::round;

pub struct Item;

pub fn price() -> f64 { round(1.0) }
