"""Lines without personal data that look as if they held some: of every kind for all classes, and the look-alikes of each class."""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable

from tests.unit.protect.labelled.lines import Item, digits, line, text

_HEX = "0123456789abcdef"
_LETTERS = string.ascii_letters + string.digits
_UPPER = string.ascii_uppercase

_Maker = Callable[[random.Random], str] | str

_GENERAL: tuple[_Maker, ...] = (
    lambda d: f"order {digits(d, d.choice((6, 8, 10, 11, 12)))}",
    lambda d: f"order no. {digits(d, 3)}-{digits(d, 7)}-{digits(d, 7)}",
    lambda d: f"invoice INV-{digits(d, 4)}-{digits(d, 6)}",
    lambda d: f"version {digits(d, 1)}.{digits(d, 2)}.{digits(d, 2)}-rc.{digits(d, 1)}",
    lambda d: f"build {digits(d, 8)}.{digits(d, 2)} of {digits(d, 5)}",
    lambda d: f"Chrome/1{digits(d, 2)}.0.{d.randrange(3000, 6999)}.{digits(d, 3)} Safari/537.36",
    lambda d: f"at 20{digits(d, 2)}-0{d.randrange(1, 10)}-1{digits(d, 1)}T1{digits(d, 1)}:3{digits(d, 1)}:2{digits(d, 1)}.{digits(d, 6)}+02:00",
    lambda d: f"epoch 17{digits(d, 8)} ms 17{digits(d, 11)} ns 17{digits(d, 17)}",
    lambda d: f"id {text(d, _HEX, d.choice((16, 24, 32)))}",
    lambda d: f"uuid {uuid.UUID(int=d.getrandbits(128), version=4)}",
    lambda d: f"commit {text(d, _HEX, 40)} sha256:{text(d, _HEX, 64)}",
    lambda d: f"ratio 0.{digits(d, 16)} took {digits(d, 2)}.{digits(d, 6)} ms",
    lambda d: f"mac {':'.join(text(d, _HEX, 2) for _ in range(6))} port {digits(d, 5)}",
    lambda d: f"status 200 {digits(d, 4)} bytes in {digits(d, 3)} us",
    lambda d: f"part {text(d, _UPPER, 3)}-{digits(d, 4)}-{text(d, _UPPER, 2)} lot {text(d, _UPPER, 2)}{digits(d, 6)}",
    lambda d: f"span_id={text(d, _HEX, 16)} trace_id={text(d, _HEX, 32)}",
    lambda d: f"filename=report-{digits(d, 8)}.csv hostname: db{digits(d, 2)} username={text(d, _HEX, 6)}",
    lambda d: f"offset +0{digits(d, 3)} delta +{digits(d, 3)} range 1000-{digits(d, 4)}",
    lambda d: f"batch {base64.b64encode(d.randbytes(18)).decode()} partition {digits(d, 3)}",
    lambda d: f"/var/log/app/{digits(d, 4)}/{digits(d, 2)}/{text(d, _HEX, 8)}.log.gz",
)  # fmt: skip

_OF_CLASS: dict[str, tuple[_Maker, ...]] = {
    "email": (
        lambda d: f"icon@{d.randrange(2, 4)}x.png from pkg@1.{digits(d, 1)}.0",
        lambda d: f"com.example.Job@{text(d, _HEX, 8)} at Main.java:{digits(d, 3)}",
        lambda d: f"root@web-{digits(d, 2)} login, jdbc:oracle:thin:@db{digits(d, 1)}:1521/x",
        lambda d: f"https://social.example/@user{digits(d, 3)}/{digits(d, 9)}",
        lambda d: f"@Override @Test({digits(d, 2)}) on @angular/core@1{digits(d, 1)}.2.{digits(d, 1)}",
        lambda d: f"image registry.example:5000/app@sha256:{text(d, _HEX, 64)}",
        lambda d: f"Started getty@tty{digits(d, 1)}.service, user@{digits(d, 4)}.service: Succeeded",
        lambda d: f"values[at] x, a[.]b, \"x\" @ {digits(d, 2)}.ms look(at)it (dot) x",
        lambda d: f"mention @dev{digits(d, 3)}.team in #ops, 3 @ 4.{digits(d, 2)} each",
    ),
    "card": (
        lambda d: f"Received block blk_-{digits(d, 19)} of size {digits(d, 8)}",
        lambda d: f"order 10{digits(d, 14)}",
        lambda d: f"tracking 9{digits(d, 21)}",
        lambda d: f"ts=17{digits(d, 14)} seq=00{digits(d, 14)}",
        lambda d: f"id {digits(d, 20)} imei 01{digits(d, 13)}",
        lambda d: f"sum 0.{digits(d, 16)} -{digits(d, 3)}.{digits(d, 13)}",
        lambda d: f"ref {digits(d, 4)}-{digits(d, 4)}-{digits(d, 4)}",
        lambda d: f"ticket 7{digits(d, 15)}",
        lambda d: f"build {digits(d, 4)}.{digits(d, 4)}.{digits(d, 4)}.{digits(d, 4)}",
        lambda d: f"key {text(d, _HEX, 4)}-{text(d, _HEX, 4)}-{text(d, _HEX, 4)}-{text(d, _HEX, 4)}",
    ),
    "iban": (
        lambda d: f"sku AB{digits(d, 2)}CDEF{digits(d, 4)}XY",
        lambda d: f"lot {text(d, _UPPER, 2)}{digits(d, 2)}{digits(d, 14)}",
        lambda d: f"node DE{digits(d, 2)} rack GB{digits(d, 2)} zone FR{digits(d, 2)}",
        lambda d: f"licence {text(d, _UPPER + string.digits, 4)}-{text(d, _UPPER + string.digits, 4)}-{text(d, _UPPER + string.digits, 4)}",
        "iban missing; IBAN check failed; iban_valid=false",
    ),
    "phone": (
        lambda d: f"from 20{digits(d, 2)}-11-30 10:{digits(d, 2)} to 20{digits(d, 2)}-12-01",
        lambda d: f"isbn 978-3-16-{digits(d, 6)}-0",
        lambda d: f"{digits(d, 3)}-{digits(d, 7)}-{digits(d, 7)} shipped",
        lambda d: f"delta +{digits(d, 4)} offset +0{digits(d, 3)} gain +{digits(d, 1)}.{digits(d, 5)}",
        lambda d: f"pi {digits(d, 1)}.{digits(d, 3)}.{digits(d, 3)} size {digits(d, 3)},{digits(d, 3)},{digits(d, 3)}",
        "phone number missing; mobile app 4.2; telephone: n/a; tel=none",
        lambda d: f"mobile build {digits(d, 7)} headphone: {digits(d, 2)} telemetry {digits(d, 9)}",
        lambda d: f"slot ({digits(d, 3)}) of {digits(d, 4)}-{digits(d, 4)}",
    ),
    "ssn": (
        lambda d: f"part 555-{digits(d, 3)}-{digits(d, 2)}-{digits(d, 4)}-{digits(d, 2)}",
        lambda d: f"code 000-{digits(d, 2)}-{digits(d, 4)} 666-{digits(d, 2)}-{digits(d, 4)} 9{digits(d, 2)}-{digits(d, 2)}-0000",
        lambda d: f"phone book {digits(d, 3)}-{digits(d, 4)} date {digits(d, 4)}-{digits(d, 2)}-{digits(d, 2)}",
        lambda d: f"ssn missing; session {digits(d, 9)}; assn={digits(d, 9)}",
        lambda d: f"case {digits(d, 2)}-{digits(d, 3)}-{digits(d, 4)} docket {digits(d, 3)}-{digits(d, 2)}-{digits(d, 5)}",
    ),
    "jwt": (
        lambda d: f"blob eyJ{text(d, _LETTERS, 60)}",
        lambda d: f"eyJhbGciOiJub25lIn0 {text(d, _LETTERS, 20)}",
        lambda d: f"module {text(d, string.ascii_lowercase, 8)}.{text(d, string.ascii_lowercase, 9)}.{text(d, string.ascii_lowercase, 12)}",
        lambda d: f"etag W/{text(d, _HEX, 16)}.{text(d, _HEX, 8)}.{digits(d, 3)}",
        "jwt expired; JWT malformed; jwt: missing",
    ),
    "secret": (
        "password must be changed; passwordless login; the secretary called",
        lambda d: f"unexpected token ; in line {digits(d, 3)}, max_tokens=100 tokens_used={digits(d, 4)}",
        lambda d: f"token ring {text(d, _LETTERS, 34)} dict-{digits(d, 6)}",
        "reset your password, then get a new api key; credentials expired",
        lambda d: f"bearer channel {digits(d, 2)} lost; authorization denied for role {digits(d, 2)}",
        lambda d: f"sk-learn {digits(d, 1)}.{digits(d, 1)} ghp_ AKIA npm_ glpat- prefix list",
        lambda d: f"https://host{digits(d, 2)}:8080/x?page={digits(d, 2)}",
        lambda d: f"public key fingerprint SHA256:{base64.b64encode(d.randbytes(32)).decode().rstrip('=')}",
        lambda d: f"secret rotation done, version {digits(d, 3)}; private key loaded",
    ),
    "ipv4": (
        lambda d: f"oid 1.3.6.1.4.1.{digits(d, 3)}.{digits(d, 2)}",
        lambda d: f"windows 10.0.{d.randrange(10000, 22999)}.{digits(d, 3)}",
        lambda d: f"section {digits(d, 1)}.{digits(d, 1)}.{digits(d, 1)} figure {digits(d, 2)}.{digits(d, 2)}",
        lambda d: f"amount {digits(d, 3)}.{digits(d, 3)}.{digits(d, 3)},{digits(d, 2)}",
        lambda d: f"{d.randrange(256, 999)}.{digits(d, 3)}.{digits(d, 2)}.{digits(d, 2)} points",
        lambda d: f"release 1.2.3.4.5-{digits(d, 2)}",
    ),
    "ipv6": (
        lambda d: f"at {d.randrange(10, 24)}:{digits(d, 2)}:{digits(d, 2)} for 1{digits(d, 1)}:0{digits(d, 1)}",
        lambda d: f"std::vector<int>::push_back std::begin(x{digits(d, 1)}) core::fmt::Debug",
        lambda d: f"mac {':'.join(text(d, _HEX, 2) for _ in range(6))}",
        lambda d: f"SHA1 {':'.join(text(d, _HEX.upper(), 2) for _ in range(20))}",
        lambda d: f"a::b::C{digits(d, 2)} Foo::Bar ::Baz ratio 16:9 4:3",
        lambda d: f"arn:aws:s3:::bucket-{digits(d, 3)}/key urn:isbn:{digits(d, 9)}",
        lambda d: f"Main.java:{digits(d, 3)}:{digits(d, 2)}: warning; file.c:{digits(d, 2)}:{digits(d, 1)}",
    ),
    "crypto_wallet": (
        lambda d: f"tx 0x{text(d, _HEX, 64)} ptr 0x7ffe{text(d, _HEX, 8)}",
        lambda d: f"id 1{text(d, _LETTERS, 32)} 3{text(d, _LETTERS, 33)}",
        lambda d: f"commit {text(d, _HEX, 40)}",
        lambda d: f"bc1{text(d, 'qpzry9x8gf2tvdw0s3jn54khce6mua7l', 39)}",
        "wallet locked; wallet: empty; bitcoin price; wallet address missing",
        lambda d: f"cid Qm{text(d, _LETTERS, 44)}",
        lambda d: f"btc {text(d, _LETTERS, 33)} dash 1{text(d, _LETTERS, 32)} to xmr {digits(d, 4)}",
    ),
    "cookie": (
        lambda d: f"Processed session termination for sessionid: 0x{text(d, _HEX, 15)}",
        "cookie banner accepted; cookies enabled; cookie policy: see site",
        lambda d: f"session {digits(d, 6)} started; sessions={digits(d, 4)}; session_id missing",
        lambda d: f"a={text(d, _LETTERS, 12)}; b={text(d, _LETTERS, 12)}",
        lambda d: f"cookie count {digits(d, 2)}, cookie: none",
        lambda d: f"csrf check failed ({digits(d, 3)})",
    ),
    "passport": (
        "passport check failed; passport.js loaded; passport: expired",
        lambda d: f"passport middleware 0.{digits(d, 1)}.{digits(d, 1)} registered {digits(d, 3)} routes",
        lambda d: f"locator {text(d, _UPPER, 1)}{digits(d, 8)} seat {digits(d, 2)}A",
        lambda d: f"passport service took {digits(d, 4)} ms; passport_valid=false",
        lambda d: f"flight {text(d, _UPPER, 2)}{digits(d, 4)} gate {text(d, _UPPER, 1)}{digits(d, 2)}",
    ),
    "driving_licence": (
        "driver license plate; driving licence expired; driver license: none",
        lambda d: f"driver version {digits(d, 3)}.{digits(d, 2)}.{digits(d, 2)} licence GPL-3",
        lambda d: f"license key {text(d, _UPPER, 5)}-{text(d, _UPPER, 5)} seats {digits(d, 3)}",
        lambda d: f"driver id {digits(d, 8)} assigned to tour {digits(d, 6)}",
        lambda d: f"vehicle plate B-{text(d, _UPPER, 2)} {digits(d, 4)} vin WVWZZZ1JZ{digits(d, 8)}",
    ),
    "birth_date": (
        lambda d: f"created 20{digits(d, 2)}-0{d.randrange(1, 10)}-1{digits(d, 1)} release_date=1999-12-3{d.randrange(2)}",
        "born again; date of birth missing; dob invalid; birthday reminder on",
        lambda d: f"dob check {digits(d, 4)}-{digits(d, 2)}-{digits(d, 2)} bday party {digits(d, 8)}",
        lambda d: f"due_date: 1{digits(d, 1)}.0{d.randrange(1, 10)}.2025 updated {digits(d, 2)}/{digits(d, 2)}/2024",
        lambda d: f"stubborn {digits(d, 4)}-{digits(d, 2)} newborn-{digits(d, 8)}",
        lambda d: f"Date: Mon, 1{digits(d, 1)} Mar 2025 10:{digits(d, 2)}:00 GMT",
    ),
    "name": (
        "first name is required; full name missing; last name too long",
        lambda d: f"filename=Report{digits(d, 4)}.txt hostname: Alpha{digits(d, 2)} classname=Foo",
        lambda d: f"name={text(d, string.ascii_lowercase, 8)} display_name: Server {digits(d, 2)}",
        lambda d: f"column first_name added; index on last_name dropped in {digits(d, 2)} ms",
        lambda d: f"the customer name field has {digits(d, 2)} characters",
        lambda d: f"event_name=OrderPlaced service_name: Billing{digits(d, 1)}",
    ),
    "national_id": (
        lambda d: f"order {digits(d, 11)} of {digits(d, 9)} for {digits(d, 10)}",
        lambda d: f"pesel invalid; DNI check failed; cpf missing; national id service {digits(d, 2)}",
        lambda d: f"sin({digits(d, 3)}) cos({digits(d, 3)}) rut track {digits(d, 4)}",
        lambda d: f"tin can {digits(d, 3)}; nino weather {digits(d, 4)}; bsn-host{digits(d, 2)}",
        lambda d: f"part {text(d, _UPPER, 6)}{digits(d, 2)} code {digits(d, 3)}.{digits(d, 3)}.{digits(d, 3)}-{digits(d, 2)}",
        lambda d: f"nhs outage {digits(d, 5)}; rrn lookup {digits(d, 8)}; dni {digits(d, 7)}; nino host {text(d, _HEX, 9)}",
        lambda d: f"stamp {digits(d, 6)}-{digits(d, 4)} job {digits(d, 6)}/{digits(d, 4)}",
    ),
    "bank_account": (
        lambda d: f"account {digits(d, 3)} disabled; account number missing; bank account linked",
        lambda d: f"accounting period {digits(d, 6)}; accounts: {digits(d, 4)} total",
        lambda d: f"account_id={text(d, _HEX, 12)} aws account alias prod-{digits(d, 2)}",
        lambda d: f"routing table {digits(d, 3)}; routing key orders.{digits(d, 6)}; sort code path",
        lambda d: f"discount number one of {digits(d, 8)}",
    ),
    "geo": (
        lambda d: f"latency={digits(d, 2)}.{digits(d, 4)} flat={digits(d, 2)}.{digits(d, 5)}",
        lambda d: f"platform: {digits(d, 3)} location: eu-west-{digits(d, 1)} position={digits(d, 3)}",
        lambda d: f"p50={digits(d, 2)}.{digits(d, 4)}, p99={digits(d, 3)}.{digits(d, 4)}",
        "latitude missing; coordinates invalid; gps off",
        lambda d: f"load {digits(d, 1)}.{digits(d, 2)}, {digits(d, 1)}.{digits(d, 2)}, {digits(d, 1)}.{digits(d, 2)}",
        lambda d: f"temp 2{digits(d, 1)}.{digits(d, 3)}°C at {digits(d, 2)}% lon-term {digits(d, 3)}",
    ),
    "address": (
        lambda d: f"{digits(d, 2)} Server Road map ids, {digits(d, 2)} Hard Drive failures",
        lambda d: f"{digits(d, 2)} Fast Lane departures and {digits(d, 1)} Main Street lights out",
        lambda d: f"ip address {digits(d, 3)}; memory address 0x{text(d, _HEX, 12)}; address family {digits(d, 2)}",
        lambda d: f"street_name missing; {digits(d, 3)} rue tokens",
        lambda d: f"platz {digits(d, 2)} Unterweg-{digits(d, 3)} Drive: {digits(d, 2)} GB",
        lambda d: f"shipping address is required ({digits(d, 2)})",
    ),
}  # fmt: skip


def near_misses(data_class: str, count: int, seed: int) -> list[tuple[str, str]]:
    """Lines that hold nothing personal beyond what their kind of line does: half look like the class, half are of any kind.

    Returns:
        Each line, and the same without what looks like something.
    """
    draw = random.Random(f"{data_class} {seed}")
    made: list[tuple[str, str]] = []
    own = _OF_CLASS[data_class]
    for number in range(count):
        makers = own if number % 2 else _GENERAL
        maker = makers[number // 2 % len(makers)]
        piece = maker if isinstance(maker, str) else maker(draw)
        whole = line(draw, Item(piece, bare=True)) if draw.random() < 0.7 else piece
        made.append((whole, whole.replace(piece, "-")))
    return made
