"""Values that only their labels give away: what papers, banks and maps say of a person, and what opens doors."""

from __future__ import annotations

import base64
import random
import string

from stdnum.us import rtn

from tests.unit.protect.labelled.lines import Item, digits, text

_LETTERS = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_UPPER = string.ascii_uppercase
_FIRST = (
    "Alice",
    "Bob",
    "Chloé",
    "Dmitri",
    "Ewa",
    "Fatima",
    "Grace",
    "Jürgen",
    "Li",
    "Anne-Marie",
    "José",
    "Zoë",
    "Søren",
    "Łukasz",
)
_LAST = (
    "Smith",
    "Müller",
    "García",
    "Nowak",
    "Dupont",
    "O'Neil",
    "Hopper",
    "van Dijk",
    "Rossi",
    "da Silva",
    "McDonald",
    "Ångström",
)
_MONTHS = ("Jan January", "Feb February", "Mar March", "Apr April", "May May", "Jun June", "Jul July", "Aug August",
           "Sep September", "Oct October", "Nov November", "Dec December")  # fmt: skip


def birth_date(draw: random.Random) -> Item:
    """In the orders and languages of dates."""
    year, month, day = draw.randrange(1930, 2015), draw.randrange(1, 13), draw.randrange(1, 29)
    short, long = _MONTHS[month - 1].split()
    written = draw.choice((
        f"{year}-{month:02}-{day:02}", f"{year}-{month:02}-{day:02}T00:00:00Z", f"{day:02}/{month:02}/{year}", f"{month:02}/{day:02}/{year}",
        f"{day}.{month}.{year}", f"{day:02}.{month:02}.{year}", f"{day} {long} {year}", f"{long} {day}, {year}", f"{day}-{short}-{year}",
        f"{year}/{month:02}/{day:02}", f"{year}{month:02}{day:02}", f"{day:02}-{month:02}-{year}", f"{short} {day} {year}",
    ))  # fmt: skip
    keys = ("dob", "birth_date", "birthDate", "date_of_birth", "dateOfBirth", "birthday", "geburtsdatum", "date_naissance",
            "fecha_nacimiento", "DOB", "customerDateOfBirth")  # fmt: skip
    prose = ("date of birth: {}", "DOB: {}", "dob {}", "born {}", "born on {}", "Geburtsdatum: {}", "birthday is {}", "Date of birth {}",
             "fecha de nacimiento: {}", "date de naissance: {}", "data di nascita: {}")  # fmt: skip
    return Item(written, keys, prose)


def name(draw: random.Random) -> Item:
    """Of people, behind the usual labels."""
    first, last = draw.choice(_FIRST), draw.choice(_LAST)
    if draw.random() < 0.5:
        keys: tuple[str, ...] = ("first_name", "firstName", "given_name", "vorname", "voornaam", "user.first_name")
        return Item(first, keys, ("first name: {}", "Vorname: {}", "given name: {}", "prénom: {}"))
    if draw.random() < 0.5:
        keys = ("last_name", "lastName", "surname", "family_name", "nachname", "apellido", "cognome", "achternaam")
        return Item(last, keys, ("last name: {}", "surname: {}", "Nachname: {}") if " " not in last else ())
    keys = ("full_name", "fullName", "customer_name", "patient_name", "contactName", "cardholder_name")
    return Item(
        f"{first} {last}" if last[0].isupper() else f"{first} Smith", keys, ("full name: {}", "customer name: {}")
    )


def passport(draw: random.Random) -> Item:
    """Numbers behind a label, and the second line of the machine-readable zone (ICAO 9303)."""
    if draw.random() < 0.1:
        number = text(draw, _UPPER, 1) + digits(draw, 8)
        birth = f"{digits(draw, 2)}0{draw.randrange(1, 10)}1{digits(draw, 1)}"
        expiry = f"3{digits(draw, 1)}0{draw.randrange(1, 10)}1{digits(draw, 1)}"
        check, personal = _icao, "<" * 14
        whole = number + check(number) + birth + check(birth) + expiry + check(expiry) + personal + check(personal)
        line = f"{number}{check(number)}UTO{birth}{check(birth)}{draw.choice('MF<')}{expiry}{check(expiry)}{personal}{check(personal)}"
        return Item(line + check(whole), prose=("mrz {}", "read {}"), bare=True)
    number = draw.choice((
        digits(draw, 9), text(draw, _UPPER, 1) + digits(draw, 8), text(draw, _UPPER, 2) + digits(draw, 7), text(draw, "CFGHJK", 1) + digits(draw, 8),
        f"{digits(draw, 2)}{text(draw, _UPPER, 2)}{digits(draw, 5)}", text(draw, "CFGHJKLMNPRTVWXYZ", 1) + text(draw, "CFGHJKLMNPRTVWXYZ0123456789", 7) + digits(draw, 1),
        text(draw, _UPPER, 1) + digits(draw, 7),
    ))  # fmt: skip
    keys = ("passport", "passport_number", "passportNo", "passport_no", "reisepass", "passportNumber", "pasaporte")
    return Item(
        number,
        keys,
        (
            "passport no. {}",
            "Passport: {}",
            "passport number {}",
            "Reisepass {}",
            "passport number is {}",
            "passeport : {}",
        ),
    )


def _icao(field: str) -> str:
    values = (0 if c == "<" else int(c, 36) for c in field)
    return str(sum(value * (7, 3, 1)[at % 3] for at, value in enumerate(values)) % 10)


def driving_licence(draw: random.Random) -> Item:
    """Of Britain, states of America, and countries of Europe."""
    number = draw.choice((
        f"{text(draw, _UPPER, 5)}{digits(draw, 1)}0{draw.randrange(1, 10)}1{digits(draw, 2)}{text(draw, _UPPER, 2)}9{text(draw, _UPPER, 2)}",
        text(draw, _UPPER, 1) + digits(draw, 7), digits(draw, 9), digits(draw, 8), text(draw, _UPPER, 1) + digits(draw, 12),
        f"{text(draw, _UPPER, 1)}{digits(draw, 3)}-{digits(draw, 3)}-{digits(draw, 2)}-{digits(draw, 3)}-{digits(draw, 1)}",
        f"{text(draw, _UPPER, 1)}{digits(draw, 3)}-{digits(draw, 4)}-{digits(draw, 4)}", digits(draw, 10), digits(draw, 12),
        f"{text(draw, 'BJN', 1)}{digits(draw, 3)}{text(draw, _UPPER, 3)}{digits(draw, 1)}{text(draw, _LETTERS[26:52], 1)}{digits(draw, 2)}",
        f"{digits(draw, 2)}{text(draw, _UPPER, 2)}{digits(draw, 5)}",
    ))  # fmt: skip
    keys = (
        "driver_license",
        "driving_licence",
        "driverLicense",
        "drivers_license_number",
        "driving_licence_no",
        "fuehrerschein",
        "rijbewijs",
    )
    prose = (
        "driver's license: {}",
        "driving licence no {}",
        "Driving licence number: {}",
        "driver license {}",
        "Führerschein: {}",
    )
    return Item(number, keys, prose)


def bank_account(draw: random.Random) -> Item:
    """Numbers of accounts, sort codes, routing numbers."""
    kind = draw.randrange(6)
    if kind == 0:
        body = "0" + draw.choice("123456789") + digits(draw, 6)
        number = body + rtn.calc_check_digit(body)
        return Item(
            number,
            ("routing_number", "routingNumber", "aba_number"),
            ("routing number: {}", "routing number {}", "ABA: {}"),
        )
    if kind == 1:
        joint = draw.choice("- ")
        number = joint.join(digits(draw, 2) for _ in range(3))
        return Item(number, ("sort_code", "sortCode"), ("sort code: {}", "sort code {}"))
    number = digits(draw, draw.choice((8, 9, 10, 11, 12, 16)))
    keys = (
        "account_number",
        "accountNumber",
        "bank_account",
        "kontonummer",
        "acct_no",
        "bank_account_number",
        "iban_account_no",
        "cuenta_no",
    )
    return Item(
        number,
        keys[:6],
        ("account number: {}", "bank account {}", "Kontonummer: {}", "acct no {}", "Account No. {}", "account no: {}"),
    )


def geo(draw: random.Random) -> Item:
    """Coordinates alone behind a label, in pairs, in links, in degrees and minutes."""
    latitude, longitude = draw.uniform(-80, 80), draw.uniform(-179, 179)
    places = draw.choice((4, 5, 6, 7))
    kind = draw.randrange(6)
    if kind == 0:
        prose = ("https://maps.example/@{},15z", "geo:{}", "see geo:{}")
        return Item(f"{latitude:.{places}f},{longitude:.{places}f}", prose=prose, bare=True)
    if kind == 1:
        written = (
            f"{abs(int(latitude))}°{draw.randrange(60):02}'{draw.randrange(60):02}\"{'N' if latitude > 0 else 'S'}"
        )
        return Item(written, prose=("at {}", "place {}"), bare=True)
    if kind == 2:
        joint = draw.choice((",", ", "))
        written = f"{latitude:.{places}f}{joint}{longitude:.{places}f}"
        return Item(
            written,
            ("location", "coordinates", "gps", "latlng", "position"),
            ("gps: {}", "location: {}", "coordinates: {}"),
        )
    keys, value = draw.choice(
        ((("lat", "latitude", "geo.latitude"), latitude), (("lon", "lng", "longitude"), longitude))
    )
    return Item(f"{value:.{places}f}", keys, (f"{keys[0]}: {{}}", f"{keys[-1].rpartition('.')[2]}: {{}}"))


def address(draw: random.Random) -> Item:
    """Streets with their numbers in three languages, and what labels call an address."""
    number, town = draw.randrange(1, 9999), draw.choice(("Springfield", "Oxford", "Austin"))
    english = f"{number} {draw.choice(('Oak', 'Main', 'Lake View', 'Martin Luther King', 'Queen Victoria'))} {draw.choice(('Street', 'Road', 'Avenue', 'Boulevard', 'Lane', 'Drive'))}"
    german = f"{draw.choice(('Linden', 'Haupt', 'Goethe', 'Bahnhof'))}{draw.choice(('straße', 'strasse', 'str.'))} {draw.randrange(1, 200)}{draw.choice(('', 'a'))}"
    french = f"{draw.randrange(1, 200)} {draw.choice(('rue de la Paix', 'avenue Victor Hugo', 'boulevard Voltaire', 'rue du Bac'))}"
    kind = draw.randrange(5)
    prose = ("at {} and", "ship to {}.", "lives at {},")
    if kind == 0:
        return Item(english, prose=prose)
    if kind == 1:
        return Item(f"{english}, {town}, TX {digits(draw, 5)}", prose=prose)
    if kind == 2:
        return Item(f"{german}, {draw.randrange(10000, 99999)} Berlin" if draw.random() < 0.5 else german)
    if kind == 3:
        return Item(f"{french}, {draw.randrange(10000, 95999)} Paris" if draw.random() < 0.5 else french)
    keys = ("street_address", "shipping_address", "billingAddress", "home_address", "postal_address", "address_line1")
    return Item(draw.choice((english, german, french, f"Flat {digits(draw, 1)}, {english}")).replace("'", ""), keys)


def cookie(draw: random.Random) -> Item:
    """Headers, and the ids of sessions."""
    value = text(draw, _LETTERS, draw.choice((16, 24, 32, 40)))
    if draw.random() < 0.5:
        parts = [
            f"{draw.choice(('sid', 'SESSION', '_ga', 'auth', 'csrf', 'id'))}={text(draw, _LETTERS, 20)}"
            for _ in range(draw.randrange(1, 4))
        ]
        return Item("; ".join(parts), prose=("Cookie: {},", "cookie: {},"), bare=True)
    if draw.random() < 0.3:
        written = f"sid={value}; Path=/; HttpOnly; Secure; SameSite=Lax"
        return Item(written, prose=("Set-Cookie: {},", "set-cookie: {},"), bare=True)
    keys = ("PHPSESSID", "JSESSIONID", "session_id", "sessionid", "connect.sid", "session_cookie")
    return Item(value, keys, ("JSESSIONID={}", "PHPSESSID={}", "session_id={}", "sessionid={}"))


_VENDORS = (
    ("AKIA", _UPPER + "234567", 16), ("ghp_", _LETTERS, 36), ("gho_", _LETTERS, 36), ("glpat-", _LETTERS + "_-", 20), ("sk_live_", _LETTERS, 24),
    ("AIza", _LETTERS + "_-", 35), ("npm_", _LETTERS, 36), ("xoxb-", _LETTERS, 40), ("sk-ant-api03-", _LETTERS + "_-", 93), ("hvs.", _LETTERS, 90),
    ("shpat_", _HEX, 32), ("dop_v1_", _HEX, 64), ("SG.", _LETTERS + "_-", 22), ("pypi-AgEIcHlwaS5vcmc", _LETTERS + "_-", 70), ("ya29.", _LETTERS + "_-", 60),
    ("rk_live_", _LETTERS, 24), ("github_pat_", _LETTERS, 82), ("glsa_", _LETTERS, 32), ("lin_api_", _LETTERS, 40), ("sk-proj-", _LETTERS, 48), ("whsec_", _LETTERS, 32),
)  # fmt: skip


def secret(draw: random.Random) -> Item:
    """Keys of vendors anywhere; passwords and tokens behind labels, in URLs, in headers; private keys."""
    kind = draw.randrange(8)
    strong = text(draw, _LETTERS + "!#$%*+-_.?^~", draw.choice((8, 10, 12, 16))) + draw.choice(string.digits)
    if kind < 2:
        prefix, alphabet, count = draw.choice(_VENDORS)
        value = prefix + text(draw, alphabet, count - 1) + draw.choice([c for c in alphabet if c.isalnum()])
        if prefix == "SG.":
            value += f".{text(draw, _LETTERS, 43)}"
        if prefix == "glsa_":
            value += f"_{text(draw, _HEX, 8)}"
        return Item(value)
    if kind == 2:
        password = text(draw, _LETTERS + "!$*-_.", 12)
        prose = tuple(
            f"{scheme}://app:{{}}@db.internal:5432/x"
            for scheme in ("postgres", "amqp", "redis", "mysql", "mongodb+srv", "https")
        )
        return Item(password, prose=prose, bare=True)
    if kind == 3:
        value = base64.b64encode(draw.randbytes(24)).decode()
        return Item(
            value, prose=("Authorization: Basic {}", "authorization: Bearer {}", "Authorization: Bearer {}"), bare=True
        )
    if kind == 4 and draw.random() < 0.3:
        body = base64.b64encode(draw.randbytes(120)).decode()
        of = draw.choice(("", "RSA ", "EC ", "OPENSSH "))
        return Item(
            f"-----BEGIN {of}PRIVATE KEY-----\n{body}\n-----END {of}PRIVATE KEY-----", prose=("{}", "key {}"), bare=True
        )
    if kind < 6:
        keys: tuple[str, ...] = (
            "password",
            "passwd",
            "pwd",
            "user_password",
            "db.password",
            "DB_PASSWORD",
            "passphrase",
        )
        return Item(
            strong.lstrip("!#$%*+-.?^~") or "hunter2",
            keys,
            ("password={}", "password: {}", "pwd={}", "--password={}", "PASSWORD={}"),
        )
    keys = ("token", "api_key", "apiKey", "client_secret", "clientSecret", "access_token", "refresh_token", "secret_key", "x-api-key",
            "aws_secret_access_key", "private_key", "auth_token")  # fmt: skip
    value = text(draw, _LETTERS, draw.choice((20, 32, 40)))
    return Item(
        value, keys, ("token={}", "api_key={}", "client_secret={}", "access_token={}", "?api_key={}", "secret={}")
    )
