using Shop.Carts;

namespace Shop.Tests {
  public class CartTests { Cart cart; }
}
