pub mod money;
pub mod cart;
pub use cart::Cart;
