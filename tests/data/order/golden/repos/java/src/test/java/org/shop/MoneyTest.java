package org.shop;

import org.shop.cart.Cart;

class MoneyTest {
  void rounds() { Money.round(1); new Cart(); }
}
