"""Reads one web page as text, from the sites that its owner has named.

A model chooses the address, and whoever writes a page can talk a model into choosing another. So an
address is never trusted: the site must be on the list, each of its IP addresses must be a public
one, the connection goes to the very address that was checked, and a redirect is a new address. Runs
no scripts, keeps no cookies, follows no links, and takes no part in a login.
"""

import asyncio
import codecs
import html
import re
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore
import httpx

from agent.errors import Refused, Unavailable
from agent.harmless import visible

MAX_URL = 2_000
MAX_BYTES = 2_000_000
"""Of a page, as it comes and unpacked; counted while it comes."""
MAX_TEXT = 10_000
"""Characters that are handed on; a tool's result is cut soon after."""
MAX_REDIRECTS = 5
TOTAL_S = 15.0
"""For all of it: looking up names, redirects, the page. A page that trickles ends here."""
CONNECT_S = 5.0
"""For one of a site's addresses, so that the next one gets its turn; and for TLS."""
TYPES = ("text/html", "application/xhtml+xml", "text/plain", "text/markdown", "application/json")
HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "agent-page-reader/1.0",
    "Accept": "text/html, text/plain, text/markdown, application/json;q=0.9",
    "Accept-Encoding": "gzip",
    "Connection": "close",
}

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_NOT_PUBLIC = [
    ip_network(text)
    for text in (
        "100.64.0.0/10",  # carriers' inner networks; some clouds keep their passwords there
        "168.63.129.16/32",  # Azure's own service, at an address that looks public
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2001::/23",  # Teredo, and other tunnels
        "2001:db8::/32",
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",
    )
]
"""What Python's `is_global` does not know, or knows from some release on alone."""
_GLOBAL_IPV6 = ip_network("2000::/3")
"""All that is given out. What wraps IPv4 addresses lies outside: ::ffff:0:0/96, 64:ff9b::/96."""


def public(address: Address) -> bool:
    """Whether `address` is one of the public network, and of nothing nearer."""
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


async def look_up(host: str, port: int) -> list[str]:
    """All IP addresses of a name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to what was checked: httpcore gives the name, and knows nothing of addresses. For
    TLS and in the Host header it stays the name."""

    def __init__(self, resolve: Resolve, allowed: Callable[[Address], bool]) -> None:
        self._resolve, self._allowed = resolve, allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in await self._addresses(host, port):
            try:
                return await self._network.connect_tcp(str(address), port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> list[Address]:
        """One that may not be read is enough to refuse the name: it would have its turn."""
        try:
            found = [ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, ValueError) as error:  # Unicode's errors are values', too
            raise httpcore.ConnectError(f"its name is not known: {error}") from error
        for address in found:
            if not self._allowed(address):
                raise Refused(f"{host} leads to an address that is not public; read another site.")
        return found


class Pages:
    """Pages of `hosts`: `example.org`, `*.example.org` for all below it, `example.org:8443`."""

    def __init__(
        self,
        hosts: Iterable[str],
        resolve: Resolve = look_up,
        allowed: Callable[[Address], bool] = public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = sorted(hosts)
        self._places = [_place(entry) for entry in self._hosts]
        # httpcore itself, and not httpx: no proxies, cookies or redirects that nobody asked for.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or httpx.create_ssl_context(),
            max_keepalive_connections=0,
            network_backend=_Checked(resolve, allowed),
        )

    async def read(self, url: str) -> str:
        """The page's title, its address and its text."""
        try:
            async with asyncio.timeout(TOTAL_S):
                final, kind, data = await self._fetch(url)
                return await asyncio.to_thread(_as_text, final, kind, data)
        except TimeoutError:
            took = f"{_shown(url)} took more than {TOTAL_S:g} s"
            raise Unavailable(f"{took}; read another page.") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            reason = _shown(str(error) or type(error).__name__)
            what = f"{_shown(url)} cannot be read ({reason})"
            raise Unavailable(f"{what}; check the address, or read another page.") from error

    async def close(self) -> None:
        await self._pool.aclose()

    async def _fetch(self, url: str) -> tuple[str, str, bytes]:
        """The last address, the content type and the content."""
        for _ in range(MAX_REDIRECTS + 1):
            checked = self._checked(url)
            async with self._response(checked) as response:
                headers = {name.lower(): value for name, value in response.headers}
                target = headers.get(b"location")
                if response.status not in (301, 302, 303, 307, 308) or target is None:
                    kind = _content_type(response.status, headers, str(checked))
                    return str(checked), kind, await _content(response, headers, str(checked))
            url = _joined(checked, target.decode("ascii", "replace"))
        raise Refused(f"{_shown(url)} is redirected more than {MAX_REDIRECTS} times; read another.")

    def _checked(self, text: str) -> httpx.URL:
        """`text` as an address that may be read."""
        try:
            url = httpx.URL(text.strip() if len(text) <= MAX_URL else "")
        except (httpx.InvalidURL, ValueError):
            raise Refused(f"{_shown(text)} is no address; give one as https://….") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise Refused(f"{_shown(text)} is no address of a page; give one as https://….")
        if url.userinfo:
            raise Refused(f"The address of {url.host} holds a name or password; leave it out.")
        usual = 443 if url.scheme == "https" else 80
        port = usual if url.port is None else url.port
        if not any(fits(url.raw_host.decode("ascii"), port) for fits in self._places):
            names = ", ".join(self._hosts)
            asked = f"{_shown(url.host)}, port {port},"
            raise Refused(f"{asked} is not among the sites that may be read: {names}.")
        return url.copy_with(fragment=None)

    def _response(self, url: httpx.URL) -> AbstractAsyncContextManager[httpcore.Response]:
        address = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        headers = [*HEADERS.items(), ("Host", url.netloc)]
        timeout = {"timeout": {"connect": CONNECT_S}}
        return self._pool.stream("GET", address, headers=headers, extensions=timeout)


def _place(entry: str) -> Callable[[str, int], bool]:
    """Whether a host and a port are what an entry of the list names."""
    below = entry.startswith("*.")
    try:
        url = httpx.URL(f"//{entry[2:] if below else entry}")
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    name = url.raw_host.decode("ascii")
    if not re.fullmatch(r"[a-z0-9._:-]+", name) or url.userinfo or url.raw_path not in (b"", b"/"):
        raise ValueError(f"READ_HOSTS: {entry!r} is no host; write example.org or *.example.org.")
    ports = (80, 443) if url.port is None else (url.port,)

    def fits(host: str, port: int) -> bool:
        return port in ports and (host.endswith(f".{name}") if below else host == name)

    return fits


def _shown(text: str) -> str:
    """A piece of somebody's text as a part of a sentence."""
    line = " ".join(_clean(text).split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _joined(base: httpx.URL, target: str) -> str:
    try:
        return str(base.join(target))
    except (httpx.InvalidURL, ValueError):
        raise Refused(f"{base} is redirected to no address; read another page.") from None


Headers = dict[bytes, bytes]


def _content_type(status: int, headers: Headers, url: str) -> str:
    """The Content-Type of a page that can be read."""
    if status >= 500 or status == 429:
        raise Unavailable(f"{_shown(url)} answers {status}; read it later, or another page.")
    if status != 200:
        raise Refused(f"{_shown(url)} answers {status}; check the address, or read another page.")
    kind = headers.get(b"content-type", b"").decode("ascii", "replace").lower()
    if kind.partition(";")[0].strip() not in TYPES:
        raise Refused(f"{_shown(url)} is {_shown(kind) or 'of no kind'}, not text; read another.")
    return kind


async def _content(response: httpcore.Response, headers: Headers, url: str) -> bytes:
    """The body, unpacked by as much as may be held and no more."""
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"identity", b"", b"gzip", b"x-gzip"):
        raise Refused(f"{_shown(url)} is packed in a way that was not asked for; read another.")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if b"gzip" in coding else None
    came, content = 0, bytearray()
    async for piece in response.aiter_stream():
        came += len(piece)
        try:
            content += unpack.decompress(piece, MAX_BYTES + 1) if unpack else piece
        except zlib.error:
            raise Unavailable(f"{_shown(url)} is damaged; read another page.") from None
        if max(came, len(content)) > MAX_BYTES:
            most = f"{MAX_BYTES // 1_000_000} MB"
            raise Refused(f"{_shown(url)} is larger than {most}; read a smaller page.")
    return bytes(content)


# From bytes to text


def _as_text(url: str, kind: str, data: bytes) -> str:
    text, title = _decoded(kind, data), ""
    if "html" in kind.partition(";")[0]:
        title, text = page_text(text)
    title, text = _shown(title), _clean(text).strip()
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT].rstrip()}\n(Cut here: the page has {len(text):,} characters.)"
    return "\n".join(filter(None, (title, url))) + f"\n\n{text or '(The page has no text.)'}"


_JUNK = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\ud800-\udfff\ufffe\uffff]")
"""Control characters, soft hyphens, half surrogates and non-characters."""
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}[\"']?([a-z0-9_-]{1,40})", re.IGNORECASE)
_ENCODINGS = re.compile(
    r"utf-8|utf-16(-le|-be)?|iso8859-\d+|cp125\d|cp932|koi8-[ru]|gbk|gb2312|gb18030|big5"
    r"|shift_jis|euc_jp|euc_kr|iso2022_jp"
)
"""Those of web pages: Python knows others, some of which are slow on purpose-made texts."""


def _clean(text: str) -> str:
    return visible(_JUNK.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def _decoded(kind: str, data: bytes) -> str:
    """By its mark, its header or its own word; what is no text in it becomes a question mark."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    said = _CHARSET.search(kind)
    if not said and "html" in kind:
        said = _CHARSET.search(data[:2048].decode("latin-1"))
    try:
        name = codecs.lookup(said[1]).name if said else "utf-8"
    except LookupError:
        name = "utf-8"
    name = "cp1252" if name in ("iso8859-1", "ascii") else name  # as browsers read it
    return data.decode(name if _ENCODINGS.fullmatch(name) else "utf-8", "replace")


# HTML


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RAW = _words("script style iframe noembed noframes xmp textarea")
"""Until their end tag nothing in them is a tag."""
_HIDDEN = _RAW | _words("noscript template svg math object select canvas audio video")
_EMPTY = _words("area br col embed hr img input link meta source track wbr")
"""They have no end tag."""
_LINE = _words("br li tr dt dd")
_PARAGRAPH = _words(
    "body main article section aside nav header footer address div p blockquote pre hr ul ol dl"
    " table caption figure figcaption form fieldset details summary h1 h2 h3 h4 h5 h6"
)
_COMMENTS = {"<!--": "-->", "<!": ">", "<?": ">"}
_BEGIN = re.compile(r"</?[a-z]|<!--|<[!?]", re.IGNORECASE)
_TAG = re.compile(r"<(/?)([^\s/>]{1,50}+)((?:[^\"'>]++|\"[^\"]*+\"|'[^']*+')*+)>")
_ODD_TAG = re.compile(r"<(/?)([^\s/>]{1,50}+)([^>]*+)>")
"""For a page with a quote that nothing ends."""
_NO_SIGN = re.compile(r"&#\d{8,}+;?")
"""Python refuses to make a number of thousands of digits."""
_QUOTED = re.compile(r"\"[^\"]*+\"|'[^']*+'")
_NO_DISPLAY = re.compile(r"display\s?:\s?none|visibility\s?:\s?hidden", re.IGNORECASE)
_NAME_HIDDEN = re.compile(r"(?:^|[\s/])hidden(?=[\s=/]|$)", re.IGNORECASE)


def page_text(source: str) -> tuple[str, str]:
    """The title of a page in HTML, and the text that its readers see.

    Not by Python's own parser: in some of its releases a hostile page takes it hours. This passes
    over a page once, and what it has searched for in vain it does not search for again.
    """
    written: list[str] = []
    title: list[str] = []
    into, unseen, depth = written, "", 0
    for text, name, closing, attributes in _tags(source):
        if unseen:  # an element, in which there may be others of its name
            depth += (-1 if closing else 1) if name == unseen else 0
            unseen = unseen if depth else ""
            continue
        into.append(re.sub(r"\s+", " ", html.unescape(_NO_SIGN.sub("\ufffd", text))))
        if name == "title":
            into = written if closing or title else title
        elif not closing and (name in _HIDDEN or _is_unseen(name, attributes)):
            unseen, depth = name, 1
        elif name in _PARAGRAPH:
            level = int(name[1]) if name[1:].isdecimal() and not closing else 0
            into.append("\n\n" + "#" * level + " ")
        elif name in _LINE and not closing:
            into.append("\n")
        elif name in ("td", "th") and not closing:
            into.append(" | ")
    return " ".join("".join(title).split()), _settled("".join(written))


def _tags(source: str) -> Iterator[tuple[str, str, bool, str]]:
    """Each tag: the text before it, its name, whether it closes, its attributes."""
    begin, pattern = 0, _TAG
    while found := _BEGIN.search(source, begin):
        at, text = found.start(), source[begin : found.start()]
        if sign := _COMMENTS.get(found[0]):
            yield text, "", False, ""
            begin = source.find(sign, at + 2) + len(sign)
            if begin < len(sign):
                return
            continue
        tag = pattern.match(source, at)
        if tag is None:
            pattern = _ODD_TAG
            tag = pattern.match(source, at)
        if tag is None:  # the rest belongs to it, for a browser as well
            yield text, "", False, ""
            return
        name, closing, begin = tag[2].lower(), tag[1] == "/", tag.end()
        yield text, name, closing, tag[3]
        if name in _RAW and not closing:
            end = re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE).search(source, begin)
            if not end:
                return
            begin = end.start()
    yield source[begin:], "", False, ""


def _is_unseen(name: str, attributes: str) -> bool:
    if not attributes or name in _EMPTY:
        return False
    hidden = _NAME_HIDDEN.search(_QUOTED.sub("", attributes))
    return bool(hidden or _NO_DISPLAY.search(attributes))


def _settled(text: str) -> str:
    """Each run of white space becomes the strongest separator in it."""
    return re.sub(r"\s+", lambda run: "\n" * min(run[0].count("\n"), 2) or " ", text).strip()
