package org.shop.cart;

import static org.shop.Money.round;
import org.shop.tax.*;

public class Cart {
  double total(double x) { return round(x + new Tax().of(x)); }
}
