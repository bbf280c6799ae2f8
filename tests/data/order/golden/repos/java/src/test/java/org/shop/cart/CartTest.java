package org.shop.cart;

class CartTest {
  void empty() { new Cart(); }
}
