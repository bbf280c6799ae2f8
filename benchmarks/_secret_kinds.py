"""Kinds of secrets as their makers document them, for measuring what is found.

Written from the documentation of the services, apart from the rules of the product. A
value is made at random when it is asked for, and its parts are joined only then, so that
no secret stands in this file and no scanner takes it for one.

`KINDS` maps a kind to `(line, secret)` templates: `{s}` in a line is where the secret
stands; the rest of the line is what such a line looks like in real files.
"""

import base64
import random
import string

LOWER, DIGITS = string.ascii_lowercase, string.digits
ALNUM = string.ascii_letters + DIGITS
UPPER = string.ascii_uppercase + DIGITS
HEX, BASE64, URLSAFE = "0123456789abcdef", ALNUM + "+/", ALNUM + "-_"
PASSWORD = ALNUM + "!#^*-_"


class Maker:
    """Random parts of secrets."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def pick(self, letters, number):
        return "".join(self.rng.choices(letters, k=number))

    def password(self, extra=""):
        """Twelve characters, with a letter of each case, a digit, and what is asked."""
        parts = [self.pick(LOWER, 1), self.pick(UPPER[:26], 1), self.pick(DIGITS, 1)]
        parts += [*extra, *self.pick(ALNUM + extra, 9 - len(extra))]
        self.rng.shuffle(parts)
        return "q" + "".join(parts)

    def basic(self):
        user = f"{self.pick(LOWER, 6)}:{self.password()}"
        return base64.b64encode(user.encode()).decode()

    def jwt(self):
        body = (
            {"alg": "HS256"},
            {"sub": self.pick(DIGITS, 10), "n": self.pick(LOWER, 8)},
        )
        parts = [
            base64.urlsafe_b64encode(str(b).replace("'", '"').encode()) for b in body
        ]
        head = [p.decode().rstrip("=") for p in parts]
        return ".".join([*head, self.pick(URLSAFE, 43)])

    def pem(self):
        lines = "\n".join(self.pick(BASE64, 64) for _ in range(6))
        mark = "RSA PRIVATE" + " KEY-----"
        return f"-----BEGIN {mark}\n{lines}\n{self.pick(BASE64, 20)}==\n-----END {mark}"

    def ip(self):
        first = self.rng.choice([23, 45, 62, 81, 93, 104, 138, 151, 185, 203])
        return ".".join(
            [str(first), *(str(self.rng.randrange(20, 250)) for _ in "abc")]
        )


ASSIGNED = (
    'KEY = "{s}"',
    'x = {{"k": "{s}", "n": 1}}',
    "# use {s} for now",
    "run('{s}')",
)


def token(prefix, letters, number, lines=ASSIGNED):
    return lines, lambda m: "".join(prefix) + m.pick(letters, number)


KINDS = {
    # Tokens with a prefix
    "aws access key": token(("AK", "IA"), UPPER, 16),
    "github personal": token(("gh", "p_"), ALNUM, 36),
    "github app": token(("gh", "s_"), ALNUM, 36),
    "github fine-grained": token(("github", "_pat_"), ALNUM + "_", 82),
    "gitlab personal": token(("gl", "pat-"), URLSAFE, 20),
    "slack app": (
        ASSIGNED,
        lambda m: (
            "xa" + f"pp-1-{m.pick(UPPER, 11)}-{m.pick(DIGITS, 13)}-{m.pick(HEX, 64)}"
        ),
    ),
    "slack bot": (
        ASSIGNED,
        lambda m: (
            "xo" + f"xb-{m.pick(DIGITS, 12)}-{m.pick(DIGITS, 12)}-{m.pick(ALNUM, 24)}"
        ),
    ),
    "slack webhook": (
        ('url = "https://hooks.slack.com/services/{s}"',),
        lambda m: f"T{m.pick(UPPER, 10)}/B{m.pick(UPPER, 10)}/{m.pick(ALNUM, 24)}",
    ),
    "discord webhook": (
        ('url = "https://discord.com/api/webhooks/{s}"',),
        lambda m: f"{m.pick('123456789', 18)}/{m.pick(URLSAFE, 68)}",
    ),
    "stripe secret": token(("sk_", "live_"), ALNUM, 24),
    "stripe restricted": token(("rk_", "live_"), ALNUM, 24),
    "stripe webhook": token(("wh", "sec_"), ALNUM, 32),
    "vault service": token(("hv", "s."), URLSAFE, 95),
    "databricks": token(("da", "pi"), HEX, 32),
    "docker": token(("dckr", "_pat_"), URLSAFE, 27),
    "google client secret": token(("GOC", "SPX-"), URLSAFE, 28),
    "google api key": token(("AI", "za"), URLSAFE, 35),
    "grafana service": (
        ASSIGNED,
        lambda m: "gl" + f"sa_{m.pick(ALNUM, 32)}_{m.pick(HEX, 8)}",
    ),
    "sendgrid": (
        ASSIGNED,
        lambda m: "S" + f"G.{m.pick(URLSAFE, 22)}.{m.pick(URLSAFE, 43)}",
    ),
    "hugging face": token(("h", "f_"), string.ascii_letters, 34),
    "npm": token(("np", "m_"), ALNUM, 36),
    "pypi": token(("py", "pi-AgEIcHlwaS5vcmc"), URLSAFE, 70),
    "digitalocean": token(("do", "p_v1_"), HEX, 64),
    "shopify": token(("shp", "at_"), HEX, 32),
    "openai project": token(("sk", "-proj-"), URLSAFE, 48),
    "anthropic": (ASSIGNED, lambda m: "sk" + f"-ant-api03-{m.pick(URLSAFE, 93)}AA"),
    "twilio key": token(("S", "K"), HEX, 32, ('twilio = "{s}"',)),
    "telegram bot": (
        ('telegram_token = "{s}"', "bot('{s}')"),
        lambda m: f"{m.pick('123456789', 10)}:A" + f"A{m.pick(URLSAFE, 33)}",
    ),
    "mailgun": token(("ke", "y-"), HEX, 32),
    "new relic": (ASSIGNED, lambda m: "NR" + f"AK-{m.pick(UPPER, 27)}"),
    "linear": token(("lin", "_api_"), ALNUM, 40),
    "postman": (ASSIGNED, lambda m: "PM" + f"AK-{m.pick(HEX, 24)}-{m.pick(HEX, 34)}"),
    "rubygems": token(("ruby", "gems_"), HEX, 48),
    "pulumi": token(("pu", "l-"), HEX, 40),
    "terraform cloud": (
        ASSIGNED,
        lambda m: f"{m.pick(ALNUM, 14)}.atl" + f"asv1.{m.pick(URLSAFE, 67)}",
    ),
    "jwt, with its signature": (ASSIGNED, Maker.jwt),
    # Assignments
    "export": (("export API_KEY={s}", "API_TOKEN={s}"), lambda m: m.pick(ALNUM, 32)),
    "#define": (('#define API_KEY "{s}"',), lambda m: m.pick(ALNUM, 32)),
    "rust &str": (('const API_KEY: &str = "{s}";',), lambda m: m.pick(ALNUM, 32)),
    "aws secret, unquoted": (
        ("aws_secret_access_key = {s}", "AWS_SECRET_ACCESS_KEY={s}"),
        lambda m: m.pick(BASE64, 40),
    ),
    "yaml": (("  client_secret: {s}", '  apiKey: "{s}"'), lambda m: m.pick(ALNUM, 32)),
    "hex key": (
        ('secret_key = "{s}"', "'encryption_key': '{s}'"),
        lambda m: m.pick(HEX, 64),
    ),
    "typed": (
        ('token: str = "{s}"', 'String apiToken = "{s}";'),
        lambda m: m.pick(ALNUM, 40),
    ),
    "password": (
        ("password = '{s}'", '"password": "{s}"', 'db.connect(password="{s}")'),
        lambda m: m.password("!"),
    ),
    # Headers, URLs, connection strings
    "x-api-key": (
        ('"X-Api-Key": "{s}"', "X-API-Key: {s}"),
        lambda m: m.pick(ALNUM, 36),
    ),
    "bearer": (
        ('"Authorization": "Bearer {s}"', "curl -H 'Authorization: Bearer {s}' $URL"),
        lambda m: m.pick(ALNUM, 40),
    ),
    "basic": (
        ('"Authorization": "Basic {s}"', "Authorization: Basic {s}"),
        Maker.basic,
    ),
    "url password": (
        ("url = 'postgres://app:{s}@db.internal:5432/x'",),
        lambda m: m.password(),
    ),
    "url password with $": (
        ("url = 'mysql://app:{s}@db.internal/x'",),
        lambda m: m.password("$"),
    ),
    "url password with %": (
        ("url = 'amqp://app:{s}@mq.internal/x'",),
        lambda m: m.password() + "%4" + m.pick(DIGITS, 1),
    ),
    "connection string": (
        ('c = "Server=db1;Database=app;User Id=app;Password={s};Encrypt=true"',),
        lambda m: m.password("!"),
    ),
    "jdbc": (
        ('u = "jdbc:mysql://db1:3306/app?user=app&password={s}"',),
        lambda m: m.password(),
    ),
    "azure storage": (
        ('"DefaultEndpointsProtocol=https;AccountName=app;AccountKey={s}"',),
        lambda m: m.pick(BASE64, 86) + "==",
    ),
    "azure shared access": (
        ('"https://app.blob.core.windows.net/c?sv=2022-11-02&sr=b&sig={s}"',),
        lambda m: m.pick(ALNUM, 40) + "%2F" + m.pick(ALNUM, 3) + "%3D",
    ),
    "private key": (("{s}",), Maker.pem),
    "private key in a string": (
        ('KEY = "{s}"',),
        lambda m: m.pem().replace("\n", "\\n"),
    ),
    # People
    "email": (
        ("# by {s}", '"author": "{s}"', "x={s}"),
        lambda m: (
            f"{m.pick(LOWER, 7)}@{m.pick(LOWER, 6)}."
            + m.rng.choice(["com", "org", "de", "io", "co.uk"])
        ),
    ),
    "ip address": (("HOST = '{s}'", "# on {s}", "connect('{s}', 80)"), Maker.ip),
    "ip address of a url": (
        ("u = 'http://{s}/api'", "u = 'https://{s}:8443/x'", "ssh://git@{s}/r"),
        Maker.ip,
    ),
    "phone number": (
        ("# call {s}", 'phone = "{s}"'),
        lambda m: (
            f"+{m.rng.choice([44, 49, 33, 39])} {m.pick('123456789', 3)} "
            f"{m.pick('123456789', 3)} {m.pick('12346789', 4)}"
        ),
    ),
}
