using Shop.Taxes;
using static Shop.Money;

namespace Shop.Carts {
  public class Cart { public double Total(double x) => Round(new Tax().Of(x)); }
}
