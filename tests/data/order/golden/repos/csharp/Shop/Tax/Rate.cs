namespace Shop.Taxes { public enum Rate { Low, High } }
