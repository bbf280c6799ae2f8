package org.shop.tax;

public enum Rates { LOW, HIGH }
