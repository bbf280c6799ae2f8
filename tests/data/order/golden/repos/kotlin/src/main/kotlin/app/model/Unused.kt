package app.model

object Unused
