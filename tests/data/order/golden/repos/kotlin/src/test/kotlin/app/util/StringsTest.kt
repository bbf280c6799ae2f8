package app.util

import app.model.User

class StringsTest {
    fun shouts() = shout(User("a"))
}
