package app

import app.model.*
import app.util.shout as loud

fun main() = println(loud(User("a")))
