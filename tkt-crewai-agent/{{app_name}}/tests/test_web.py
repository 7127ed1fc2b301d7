"""Reading a page: what an agent gets of it, and every address and answer that is none."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from agent import web
from agent.errors import Refused, Unavailable
from agent.web import MAX_BYTES, MAX_TEXT, Pages, look_up, page_text, public

pytestmark = pytest.mark.anyio

PAGE = """<!DOCTYPE html><html><head><title>Rent &amp; pets
</title><style>p { color: red }</style><script>if (1 < 2) document.write("<p>script</p>")</script>
</head><body onload="x('>')"><h1>Rent</h1><p>The rent is <b>1,250</b>
pounds.</p><ul><li>due on the first<li>by transfer</ul>
<table><tr><th>Month<th>Paid</tr><tr><td>May</td><td>yes</td></tr></table>
3 &lt; 4 && 5 > 2<!-- <p>comment</p> --><br>last&nbsp;line</body></html>"""
TEXT = """# Rent

The rent is 1,250 pounds.

due on the first
by transfer

| Month | Paid
| May | yes

3 < 4 && 5 > 2
last line"""
TLS = ssl.create_default_context()
"""To make one takes longer than most of these tests."""
Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web server on 127.0.0.1. `answers` says what a path gives; it remembers who asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {"/": page(PAGE)}
        self.asked: list[tuple[str, dict[str, str]]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                site.answers.get(self.path, page("none", status=404))(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64
            block_on_close = False

            def handle_error(self, *_: Any) -> None:
                pass  # a client that goes away is what is tested here

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def page(
    body: str | bytes = "", kind: str | None = "text/html", status: int = 200, **headers: str
) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        if kind is not None:
            handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def to(location: str, status: int = 302) -> Answer:
    return page("", status=status, Location=location)


def pieces(make: Callable[[int], bytes], pause_s: float = 0, **headers: str) -> Answer:
    """A body without an end, in chunks."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in (
            {"Content_Type": "text/html", "Transfer_Encoding": "chunked"} | headers
        ).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        for n in range(100_000):
            data = make(n)
            handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            time.sleep(pause_s)

    return answer


def raw(data: bytes) -> Answer:
    """Not HTTP, or not as it should be."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


class Names:
    """A DNS that says what it is told: for each name its answers in turn, the last one for good."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self.names.get(host)
        if not answers:
            raise socket.gaierror(-2, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def near(address: Any) -> bool:
    """As `public`, but for the tests' own server."""
    return str(address) in ("127.0.0.1", "::1") or public(address)


def pages(site: Site, names: Names | None = None, **settings: Any) -> Pages:
    """Pages of a.example, b.example and all below c.example, which are all at the tests' server."""
    hosts = [f"{host}:{site.port}" for host in ("a.example", "b.example", "*.c.example")]
    here = [["127.0.0.1"]]
    names = names or Names(a_example=here, b_example=here, x_c_example=here)
    return Pages(hosts, names, **({"allowed": near, "tls": TLS} | settings))


async def read(site: Site, path: str = "/", **settings: Any) -> str:
    reader = pages(site, **settings)
    try:
        return await reader.read(f"http://a.example:{site.port}{path}")
    finally:
        await reader.close()


async def text_of(site: Site, answer: Answer) -> str:
    site.answers["/it"] = answer
    return (await read(site, "/it")).partition("\n\n")[2]


# What an agent gets


async def test_a_page_is_its_title_its_address_and_its_text(site: Site) -> None:
    assert await read(site) == f"Rent & pets\nhttp://a.example:{site.port}/\n\n{TEXT}"


async def test_the_site_is_asked_by_its_name_and_told_nothing_of_us(site: Site) -> None:
    site.answers["/set"] = page("a", Set_Cookie="a=b; Path=/")
    reader = pages(site)
    site.answers["/?q=a%20b"] = page("b")
    for path in ("/set", "/?q=a b#part"):
        await reader.read(f"http://a.example:{site.port}{path}")
    await reader.close()

    (_, first), (path, second) = site.asked
    assert path == "/?q=a%20b"
    assert first == second
    assert second == {
        "host": f"a.example:{site.port}",
        "user-agent": "agent-page-reader/1.0",
        "accept": "text/html, text/plain, text/markdown, application/json;q=0.9",
        "accept-encoding": "gzip",
        "connection": "close",
    }


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "text/markdown; charset=utf-8", "application/json", "TEXT/PLAIN ;x=y"],
)
async def test_text_stays_as_it_is(kind: str, site: Site) -> None:
    assert await text_of(site, page("# a <b>\r\n\r\n  {1}", kind)) == "# a <b>\n\n  {1}"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text/plain", "Grüße €".encode()),
        ("text/plain; charset=UTF-8", "Grüße €".encode()),
        ("text/plain; charset=iso-8859-1", "Grüße €".encode("cp1252")),
        ('text/plain; charset="windows-1252"', "Grüße €".encode("cp1252")),
        ("text/plain", "\ufeffGrüße €".encode("utf-16-le")),
        ("text/plain", "\ufeffGrüße €".encode()),
        ("text/html", b"<meta charset=windows-1252>" + "Grüße €".encode("cp1252")),
        ("text/html; charset=gb18030", "Grüße €".encode("gb18030")),
        ("text/plain; charset=no-such-thing", "Grüße €".encode()),
        ("text/plain; charset=punycode", "Grüße €".encode()),
        ("text/plain; charset=unicode_escape", "Grüße €".encode()),
        ("text/plain; charset=zlib", "Grüße €".encode()),
        ("text/plain; charset=undefined", "Grüße €".encode()),
        ("text/plain; charset=os", "Grüße €".encode()),
    ],
)
async def test_bytes_are_read_as_what_they_are(kind: str, data: bytes, site: Site) -> None:
    assert await text_of(site, page(data, kind)) == "Grüße €"


async def test_bytes_that_are_no_text_do_no_harm(site: Site) -> None:
    assert await text_of(site, page(b"a\xff\xfeb\x00c", "text/plain")) == "a\ufffd\ufffdbc"


async def test_what_nobody_sees_is_left_out(site: Site) -> None:
    unseen = "".join(map(chr, (0x200B, 0x202E, 0xE0041, 0xFEFF, 0xAD, 0x1B, 0x7F, 0x9F)))
    hidden = (
        f"<title>T{unseen}</title>o{unseen}k<p hidden>1</p><div style='x:y;DISPLAY : none'>2"
        "<div>3</div>4</div><span style=visibility:hidden>5</span><template>6</template>"
        "<noscript>7</noscript><svg><title>8</title><text>9</text></svg><script>10</script >"
        "<style>11</style><iframe>12</iframe><!-- 13 --><? 14 ?><input hidden><textarea>15"
        "</p></textarea><object>16</object><SCRIPT>17</sCript><xmp>18</xmp>&#8203;&#x202e;"
    )

    assert await text_of(site, page(hidden)) == "ok"
    assert (await read(site, "/it")).startswith("T\n")


async def test_what_people_see_is_not_taken_for_hidden() -> None:
    seen = (
        '<p class="flex hidden md:flex" data-x=\'hidden\'>a<img hidden>b<a href="hidden">c</a></p>'
    )

    assert page_text(seen) == ("", "abc")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a < b <3 <", "a < b <3 <"),
        ("a</b", "a"),
        ("a<b c='", "a"),
        ("a<p title='x>b", "a\n\nb"),
        ('<a title=">">b</a>', "b"),
        ("a<!-- b", "a"),
        ("a<!-->b", "ab"),
        ("a<!b>c<?d>e", "ace"),
        ("a<script>b", "a"),
        ("a<script>b</scripty>c</script>d", "ad"),
        ("a<div hidden>b", "a"),
        ("a</div hidden>b</noscript>c", "a\n\nbc"),
        ("&lt;script&gt; &amp;amp; &who; &#0; &#x110000;", "<script> &amp; &who; \ufffd \ufffd"),
        ("a&#" + "9" * 5000 + ";b", "a\ufffdb"),
        ("<h2>A</h2>b<h7>c</h7>", "## A\n\nbc"),
        ("<br><br><br>a<hr>b", "a\n\nb"),
    ],
)
def test_odd_html_is_read_as_well_as_it_goes(source: str, text: str) -> None:
    assert page_text(source) == ("", text)


HOSTILE = {
    "comments that never end": "<!--" * 500_000,
    "comments that do": "<!-->" * 400_000,
    "tags that never end": "<a " * 600_000,
    "quotes that never end": "<a b='" * 330_000,
    "quotes of both kinds": "<a b='\">" * 250_000,
    "nothing but less": "<" * MAX_BYTES,
    "scripts that never end": "<script>" * 250_000,
    "scripts that do": "<script></script>" * 117_000,
    "ends of scripts": "</script " * 222_000,
    "deep nesting": "<div>" * 400_000,
    "deep hiding": "<div hidden>" * 166_000,
    "a long number": "&#" + "9" * 1_999_000,
    "a long number in hex": "&#x" + "f" * 1_999_000,
    "many signs": "&a" * MAX_BYTES,
    "white space": " \n" * 1_000_000,
    "a long name": "<" + "a" * 1_999_000,
    "many attributes": "<a " + "hidden=1 " * 222_000 + ">",
    "a long style": "<a style='" + "display:" * 249_000 + "'>",
    "many titles": "<title>" * 285_000,
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_page_takes_no_longer_than_another_with(attack: str) -> None:
    begin = time.thread_time()

    page_text(HOSTILE[attack][:MAX_BYTES])

    assert time.thread_time() - begin < 3


async def test_a_long_page_is_cut_and_says_so(site: Site) -> None:
    text = await text_of(site, page("word " * 5_000, "text/plain"))

    assert text.endswith("\n(Cut here: the page has 24,999 characters.)")
    assert MAX_TEXT - 10 < len(text) < MAX_TEXT + 60


async def test_a_page_without_text_says_so(site: Site) -> None:
    assert await text_of(site, page("<script>1</script>")) == "(The page has no text.)"


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        "a.example",
        "//a.example/",
        "http:a.example",
        "http:///",
        "http://",
        "file:///etc/passwd",
        "file://a.example/etc/passwd",
        "ftp://a.example/",
        "gopher://a.example:70/_x",
        "javascript:alert(1)",
        "data:text/html,x",
        "unix:/var/run/docker.sock",
        "ws://a.example/",
        "http://a.example\r\nHost: x/",
        "http://a.example/\r\nX: y",
        "http://a.example:x/",
        "http://a.example:80:80/",
        "http://[::1/",
        "http://a.example/" + "a" * 3_000,
        "http://\uff41.example/",
        "http://xn--\ud800/",
        "http://" + "a" * 70 + ".c.example:PORT/",
        "http://" + "a." * 200 + "c.example:PORT/",
        "http://..c.example:PORT/",
        "http://b.example/",
        "https://b.example:22/",
        "http://a.example:0/",
        "http://a.example:99999/",
        "http://c.example:PORT/",
        "http://evilc.example:PORT/",
        "http://a.example.evil.example:PORT/",
        "http://evil.example:PORT/?a.example",
        "http://evil.example:PORT#@a.example:PORT/",
        "http://evil.example:PORT\\@a.example:PORT/",
        "http://a.example:PORT\\@evil.example:PORT/",
        "http://a.example:PORT@evil.example:PORT/",
        "http://me:secret@a.example:PORT/",
        "http://me@a.example:PORT/",
        "http://:secret@a.example:PORT/",
        "http://a.example.:PORT/",
        "http://a%2eexample:PORT/",
        "http://a.example%00.evil.example:PORT/",
        "http://127.0.0.1:PORT/",
        "http://localhost:PORT/",
        "http://2130706433:PORT/",
        "http://0x7f000001:PORT/",
        "http://0177.0.0.1:PORT/",
        "http://127.1:PORT/",
        "http://0:PORT/",
        "http://[::1]:PORT/",
        "http://[::ffff:127.0.0.1]:PORT/",
        "http://[fe80::1%25lo]:PORT/",
        "http://169.254.169.254/latest/meta-data/",
        "http://kubernetes.default.svc/",
    ],
)
async def test_an_address_that_is_not_on_the_list_is_refused_without_a_connection(
    url: str, site: Site
) -> None:
    reader = pages(site)

    with pytest.raises((Refused, Unavailable)) as refusal:
        await reader.read(url.replace("PORT", str(site.port)))

    await reader.close()
    assert not site.asked
    sentence = str(refusal.value)
    assert sentence[0].isprintable()
    assert "\n" not in sentence
    assert "secret" not in sentence or url.count("@") > 1
    assert len(sentence) < 500


@pytest.mark.parametrize("host", ["a.example", "A.Example", "x.c.example", "X.C.EXAMPLE"])
async def test_an_address_on_the_list_is_read_however_it_is_written(host: str, site: Site) -> None:
    reader = pages(site)

    assert "Rent" in await reader.read(f" HTTP://{host}:{site.port}/#x ")
    await reader.close()


async def test_a_refusal_names_the_sites_that_may_be_read(site: Site) -> None:
    reader = Pages(["b.example", "*.a.example"])

    with pytest.raises(Refused, match=r"among the sites that may be read: \*\.a\.example, b\.ex"):
        await reader.read("https://c.example/")
    await reader.close()


async def test_without_a_port_in_the_list_only_those_of_the_web_are_read() -> None:
    reader = Pages(["a.example"], Names(a_example=[["10.0.0.1"]]))

    for url in ("http://a.example/", "https://a.example", "https://a.example:80/"):
        with pytest.raises(Refused, match="not public"):  # so it is on the list
            await reader.read(url)
    for port in (22, 6379, 8080, 8443):
        with pytest.raises(Refused, match=f"port {port}, is not among"):
            await reader.read(f"http://a.example:{port}/")
    await reader.close()


@pytest.mark.parametrize(
    "entry",
    [
        "*",
        "*.",
        "",
        "https://a.example",
        "a.example/path",
        "me@a.example",
        "a b",
        "a.*.example",
        "a:b",
    ],
)
def test_an_entry_that_is_no_host_is_an_error_at_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r"READ_HOSTS: .* is no host; write example\.org or"):
        Pages([entry])


NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
127.1.2.3 168.63.129.16 169.254.169.254 169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192
192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1::
2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:a00:1:: 2002:a9fe:a9fe:: 3fff::1 5f00::1
fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 4000::1
"""
PUBLIC = "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.1 172.32.0.1 2606:4700::1111 2a00:1450:4001::1"


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
async def test_an_address_that_is_not_public_is_refused_wherever_dns_puts_it(address: str) -> None:
    for answer in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
        reader = Pages(["a.example"], Names(a_example=[answer]), tls=TLS)
        with pytest.raises(Refused, match=r"leads to an address that is not public; read another"):
            await reader.read("http://a.example/")
        await reader.close()
    literal = f"[{address}]" if ":" in address else address
    if "%" not in address:
        reader = Pages([literal], tls=TLS)
        with pytest.raises(Refused, match="not public"):
            await reader.read(f"http://{literal}/")
        await reader.close()


def test_public_addresses_are_public() -> None:
    assert all(public(ip_address(address)) for address in PUBLIC.split())


async def test_localhost_is_refused_by_the_real_rules(site: Site) -> None:
    assert {"127.0.0.1", "::1"} & set(await look_up("localhost", 80))
    for host in ("localhost", "127.0.0.1"):
        reader = Pages([f"{host}:{site.port}"])
        with pytest.raises(Refused, match="not public"):
            await reader.read(f"http://{host}:{site.port}/")
        await reader.close()
    assert not site.asked


async def test_the_connection_goes_to_the_address_that_was_checked_and_dns_is_asked_once(
    site: Site,
) -> None:
    names = Names(a_example=[["127.0.0.1"], ["169.254.169.254"]])  # another answer the second time
    reader = pages(site, names)
    url = f"http://a.example:{site.port}/"

    assert "Rent" in await reader.read(url)
    assert names.asked == ["a.example"]
    with pytest.raises(Refused, match="not public"):
        await reader.read(url)
    await reader.close()
    assert len(site.asked) == 1


async def test_a_name_that_moves_between_redirects_is_checked_again(site: Site) -> None:
    site.answers["/move"] = to("/")
    names = Names(a_example=[["127.0.0.1"], ["10.0.0.1"]])

    with pytest.raises(Refused, match="not public"):
        await read(site, "/move", names=names)
    assert [path for path, _ in site.asked] == ["/move"]


async def test_where_one_address_is_dead_the_next_one_is_tried(site: Site) -> None:
    assert "Rent" in await read(site, names=Names(a_example=[["::1", "127.0.0.1"]]))


@pytest.mark.parametrize("answer", [[], ["no address"], ["127.0.0.1/8"], ["999.1.1.1"]])
async def test_a_dns_that_says_nothing_usable_is_a_failure(answer: list[str], site: Site) -> None:
    names = Names(a_example=[answer]) if answer is not None else None

    with pytest.raises(Unavailable, match=r"cannot be read \(it.*\); check the address"):
        await read(site, names=names)


async def test_a_name_that_nobody_knows_is_a_failure(site: Site) -> None:
    with pytest.raises(Unavailable, match=r"its name is not known: .* check the address"):
        await read(site, names=Names(other_example=[[]]))


async def test_a_server_that_is_not_there_is_a_failure(site: Site) -> None:
    site.close()

    with pytest.raises(Unavailable, match=r"cannot be read \(.+\); check the address, or read"):
        await read(site)


async def test_proxies_of_the_environment_are_passed_by(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Site()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "")

    assert "Rent" in await read(site)
    assert not proxy.asked
    proxy.close()


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_and_the_last_address_is_told(status: int, site: Site) -> None:
    site.answers["/a"] = to("/b?x=1", status)
    site.answers["/b?x=1"] = to(f"//b.example:{site.port}/", status)

    assert f"\nhttp://b.example:{site.port}/\n" in await read(site, "/a")
    assert [headers["host"].partition(":")[0] for _, headers in site.asked] == [
        "a.example",
        "a.example",
        "b.example",
    ]


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/",
        "//evil.example/",
        "https://evil.example:PORT/",
        "http://127.0.0.1:PORT/",
        "http://[::1]:PORT/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://a.example:22/",
        "http://me:secret@a.example:PORT/",
        "http://a.example:PORT\\@evil.example/",
        "file:///etc/passwd",
        "gopher://a.example:PORT/_x",
        "javascript:alert(1)",
        "data:text/html,x",
        "http://[",
        "http://a.example:PORT/\x7f",
        "/" + "a" * 5_000,
    ],
)
async def test_a_redirect_is_checked_like_any_address(target: str, site: Site) -> None:
    location = target.replace("PORT", str(site.port))
    site.answers["/away"] = to(location)

    with pytest.raises(Refused):
        await read(site, "/away")
    assert len(site.asked) == 1


async def test_a_redirect_to_a_listed_name_at_a_private_address_is_refused(site: Site) -> None:
    site.answers["/in"] = to(f"http://b.example:{site.port}/")
    names = Names(a_example=[["127.0.0.1"]], b_example=[["10.96.0.1"]])

    with pytest.raises(Refused, match=r"b\.example leads to an address that is not public"):
        await read(site, "/in", names=names)


async def test_five_redirects_are_followed_and_no_more(site: Site) -> None:
    for n in range(9):
        site.answers[f"/{n}"] = to(f"/{n - 1}" if n else "/")

    assert "Rent" in await read(site, "/4")
    with pytest.raises(Refused, match=r"redirected more than 5 times; read another\.$"):
        await read(site, "/5")
    site.answers["/round"] = to("/round")
    with pytest.raises(Refused, match="more than 5 times"):
        await read(site, "/round")


async def test_a_redirect_to_nowhere_is_refused(site: Site) -> None:
    with pytest.raises(Refused, match=r"answers 302; check the address"):
        await text_of(site, page("", status=302))


# Answers


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 407, 410, 451])
async def test_a_status_that_is_no_page_is_refused(status: int, site: Site) -> None:
    with pytest.raises(Refused, match=rf"/it answers {status}; check the address, or read another"):
        await text_of(site, page("secret", status=status, WWW_Authenticate="Basic"))
    assert len(site.asked) == 1  # nothing is tried with a password


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_site_that_is_in_trouble_is_a_failure(status: int, site: Site) -> None:
    with pytest.raises(Unavailable, match=rf"answers {status}; read it later, or another page\.$"):
        await text_of(site, page("secret", status=status))


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "image/png",
        "application/pdf",
        "application/octet-stream",
        "application/zip",
        "video/mp4",
        "text/htmlx",
        "multipart/form-data; text/html",
        "application/javascript",
        "text/event-stream",
        "\xff\xff",
    ],
)
async def test_what_is_no_text_is_refused_before_it_is_read(kind: str | None, site: Site) -> None:
    with pytest.raises(Refused, match=r"not text; read another\.$"):
        await text_of(site, page(b"x" * 10, kind))


async def test_a_page_that_is_too_large_is_refused_while_it_comes(site: Site) -> None:
    begin = time.monotonic()

    for answer in (pieces(lambda n: b"a" * 65_536), page(b"a" * (MAX_BYTES + 1))):
        with pytest.raises(Refused, match=r"is larger than 2 MB; read a smaller page\.$"):
            await text_of(site, answer)

    assert time.monotonic() - begin < 3
    assert await text_of(site, page(b"a" * MAX_BYTES))


async def test_a_bomb_is_unpacked_no_further_than_the_limit(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    unpacker = zlib.decompressobj

    class Counted:
        def __init__(self, bits: int) -> None:
            self._real = unpacker(bits)

        def decompress(self, data: bytes, most: int = 0) -> bytes:
            unpacked = self._real.decompress(data, most)
            made.append(len(unpacked))
            return unpacked

    monkeypatch.setattr("agent.web.zlib.decompressobj", Counted)
    bomb = gzip.compress(bytes(50_000_000), 9)

    with pytest.raises(Refused, match="is larger than 2 MB"):
        await text_of(site, page(bomb, Content_Encoding="gzip"))
    assert sum(made) <= 2 * (MAX_BYTES + 1)


async def test_a_packed_stream_that_holds_nothing_ends_too(site: Site) -> None:
    empty = gzip.compress(b"") * 3_000

    with pytest.raises(Refused, match="is larger than 2 MB"):
        await text_of(site, pieces(lambda n: empty, Content_Encoding="gzip"))


async def test_a_packed_page_is_read(site: Site) -> None:
    for coding in ("gzip", "x-gzip", "GZIP "):
        assert (
            await text_of(site, page(gzip.compress(PAGE.encode()), Content_Encoding=coding)) == TEXT
        )


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "x"])
async def test_what_is_packed_otherwise_is_refused(coding: str, site: Site) -> None:
    with pytest.raises(Refused, match="packed in a way that was not asked for"):
        await text_of(site, page(b"x", Content_Encoding=coding))


async def test_a_damaged_page_is_a_failure(site: Site) -> None:
    with pytest.raises(Unavailable, match=r"is damaged; read another page\.$"):
        await text_of(site, page(b"no gzip at all", Content_Encoding="gzip"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"-ERR unknown command\r\n",
        b"<html>an answer of HTTP/0.9</html>",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\ncut off",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 500_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
async def test_a_server_that_talks_nonsense_is_a_failure(data: bytes, site: Site) -> None:
    with pytest.raises((Unavailable, Refused)) as failure:
        await text_of(site, raw(data))

    assert len(str(failure.value)) < 500
    assert "\n" not in str(failure.value)


# Time


def wait(_: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


@pytest.mark.parametrize(
    "answer",
    [
        wait,
        pieces(lambda n: b"a", pause_s=0.02),
        pieces(lambda n: b"a", pause_s=3),
        lambda handler: [
            time.sleep(0.02) or handler.wfile.write(b"HTTP/1.1 100 Go\r\n\r\n") for _ in range(150)
        ],
    ],
    ids=["silence", "a trickle", "a pause", "promises"],
)
async def test_a_page_that_takes_too_long_is_given_up(
    answer: Answer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TOTAL_S", 0.3)
    begin = time.monotonic()

    with pytest.raises(Unavailable, match=r"took more than 0\.3 s; read another page\.$"):
        await text_of(site, answer)

    assert time.monotonic() - begin < 1


async def test_redirects_and_names_share_the_same_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TOTAL_S", 0.3)
    names = Names(a_example=[["127.0.0.1"]])

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(0.1)
        return await names(host, port)

    site.answers["/round"] = to("/round")
    with pytest.raises(Unavailable, match="took more than"):
        await read(site, "/round", names=slow)


async def test_a_page_can_be_cancelled_and_the_reader_used_again(site: Site) -> None:
    site.answers["/wait"] = wait
    reader = pages(site)
    url = f"http://a.example:{site.port}"
    running = asyncio.create_task(reader.read(f"{url}/wait"))
    await asyncio.sleep(0.1)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert all("Rent" in text for text in await asyncio.gather(*[reader.read(url)] * 1))
    assert len(await asyncio.gather(*(reader.read(f"{url}/") for _ in range(20)))) == 20
    await reader.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for a.example, with its key, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path_factory.mktemp("tls") / "a.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, *plain))
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[tuple[Site, list[str | None]]]:
    """A site with TLS, and the names that it was asked for in the handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    site = Site(context)
    yield site, names
    site.close()


async def test_tls_is_checked_for_the_name_though_the_address_is_dialled(
    secure: tuple[Site, list[str | None]], certificate: Path
) -> None:
    site, names = secure
    trusting = ssl.create_default_context(cafile=str(certificate))
    reader = pages(site, tls=trusting)

    assert "Rent" in await reader.read(f"https://a.example:{site.port}/")
    assert names == ["a.example"]
    assert site.asked[0][1]["host"] == f"a.example:{site.port}"
    with pytest.raises(Unavailable, match="certificate"):
        await reader.read(f"https://b.example:{site.port}/")
    assert len(site.asked) == 1
    await reader.close()


async def test_a_certificate_that_nobody_vouches_for_is_a_failure(
    secure: tuple[Site, list[str | None]],
) -> None:
    site, _ = secure
    reader = pages(site, tls=None)  # what the app uses

    with pytest.raises(Unavailable, match="certificate"):
        await reader.read(f"https://a.example:{site.port}/")
    await reader.close()
    assert not site.asked


async def test_plain_text_where_tls_is_due_is_a_failure(site: Site) -> None:
    reader = pages(site)

    with pytest.raises(Unavailable, match="cannot be read"):
        await reader.read(f"https://a.example:{site.port}/")
    await reader.close()


async def test_a_server_that_is_silent_in_the_handshake_is_given_up(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    monkeypatch.setattr(web, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        reader = Pages([f"a.example:{port}"], Names(a_example=[["127.0.0.1"]]), allowed=near)
        with pytest.raises(Unavailable, match="cannot be read"):
            await reader.read(f"https://a.example:{port}/")
        await reader.close()
