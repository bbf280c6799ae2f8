using Shop;

namespace Shop.Tests {
  public class MoneyTests { void Rounds() { Money.Round(1); } }
}
