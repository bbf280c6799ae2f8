package org.shop;

public class Money {
  public static double round(double x) { return x; }
}
