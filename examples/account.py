"""A bank account, with the body of one method missing: `make demo` fills it in."""


class Account:
    """A bank account that cannot be overdrawn."""

    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("The amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        """Take money out of the account."""
        

    def __repr__(self):
        return f"Account({self.owner!r}, {self.balance!r})"
