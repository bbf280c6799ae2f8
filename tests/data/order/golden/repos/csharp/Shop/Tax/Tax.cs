using System;
using Shop;

namespace Shop.Taxes {
  public class Tax { public double Of(double x) => Money.Round(x); }
}
