"""What a check can say, what it means, and what to do: the one list, from which the table in the README is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Known:
    """One kind of problem. `remedy` ends the line that a check prints, and is addressed to site IT."""

    means: str
    remedy: str


NTP = "set this machine's clock by NTP (`timedatectl`, chrony); containers take the host's clock"
OWN = "give it back to the user that runs guard and gateway: `chown`, then `chmod 600` for keys and `chmod 700` for folders"

PROBLEMS: Final[Mapping[str, Known]] = {
    # --- the way to the hub
    "NO_HUB": Known("site.yaml names no hub, or no host:port", "join first: `wardround-site join INVITE`"),
    "NO_AUTHORITY": Known(
        "the hub's certificate authority is missing or damaged here",
        "run `wardround-site join INVITE` again with the lead's invite",
    ),
    "NAME_UNKNOWN": Known(
        "the name server says that there is no such name",
        "compare the name with the invite; have it added to the hospital's internal name service; or ask the lead for the address",
    ),
    "NAME_SILENT": Known(
        "no name server answered in time", "check /etc/resolv.conf (in a container: `dns:`) and that port 53 to it is open"
    ),
    "PORT_CLOSED": Known(
        "the machine answers, nothing listens on the port (or a firewall refuses)",
        "ask the lead whether the hub is running and on which port; ask network IT for a reject rule",
    ),
    "PORT_FILTERED": Known(
        "nothing answers at all: a firewall drops the packets",
        "ask network IT to open outbound TCP to this host and port, or for the proxy to use (HTTPS_PROXY)",
    ),
    "UNREACHABLE": Known(
        "there is no route to the host", "check this machine's network, gateway and VPN; in a container: that it has a network"
    ),
    "ONE_FAMILY": Known(
        "the name has IPv6 and IPv4 addresses and those tried first do not answer",
        "have the dead address removed from the name, or its route mended, or prefer the other family in /etc/gai.conf: "
        "until then every connection waits for the dead one first",
    ),
    "PROXY_SETTING": Known(
        "a proxy variable cannot be used by the gateway",
        "write HTTPS_PROXY as http://host:port; it speaks no SOCKS and no PAC",
    ),
    "PROXY_UNREACHABLE": Known(
        "the proxy that HTTPS_PROXY names cannot be reached",
        "compare HTTPS_PROXY with what network IT says; if the hub is reached without a proxy, add its name to NO_PROXY",
    ),
    "PROXY_AUTH": Known(
        "the proxy wants a user and password (407)",
        "ask network IT for an exception without login for this host and port; or, where it offers Basic, write "
        "HTTPS_PROXY=http://user:password@host:port in the gateway's environment: NTLM and Negotiate it cannot do",
    ),
    "PROXY_REFUSES": Known(
        "the proxy does not let CONNECT to the hub through", "ask network IT to allow CONNECT to this host and port on the proxy"
    ),
    "PROXY_NO_WAY": Known(
        "the proxy itself cannot reach the hub", "ask network IT whether the proxy can resolve and reach this host and port"
    ),
    "PROXY_BREAKS": Known(
        "the proxy cuts the connection, is silent, or is no HTTP proxy",
        "compare host and port of HTTPS_PROXY with what network IT says; ask for the proxy's log of this minute",
    ),
    "NOT_TLS": Known(
        "something that is not TLS answers on the port: a captive portal, a web server, a proxy",
        "compare the port with the invite; ask network IT which portal or device answers in the hub's place",
    ),
    "TLS_SILENT": Known(
        "the port accepts connections and then says nothing",
        "ask the lead whether the hub is well; a firewall that looks into TLS does this: ask network IT to exempt host and port",
    ),
    "TLS_CUT": Known(
        "the connection is cut while TLS is agreed",
        "a firewall that looks into TLS does this: ask network IT to exempt this host and port from inspection",
    ),
    "INTERCEPTED": Known(
        "somebody between opens the TLS connection: antivirus or an inspecting proxy",
        "ask hospital IT to exempt this host and port from TLS inspection; do not install the inspector's certificate here",
    ),
    "OTHER_AUTHORITY": Known(
        "a Wardround hub answers, with another certificate authority than the invite's",
        "telephone the lead and compare fingerprints; if the hub was made anew, join again with its new invite",
    ),
    "OTHER_SERVER": Known(
        "another server's certificate: the hub is not what answers",
        "compare host, port and address with the invite; TLS inspection does this too: have host and port exempted",
    ),
    "CERTIFICATE_EXPIRED": Known(
        "the hub's certificate is no longer valid, by this machine's clock",
        f"if the date here is wrong, {NTP}; if it is right, ask the lead to renew the hub's certificate",
    ),
    "CERTIFICATE_EARLY": Known("the hub's certificate is not valid yet, by this machine's clock", f"{NTP}"),
    "CERTIFICATE_NAME": Known(
        "the hub's own certificate, for other names than the one used here",
        "the hub moved or was renamed: ask the lead for a new invite and join again",
    ),
    "CERTIFICATE_BAD": Known("the hub's certificate is refused for another reason", "show this line to the lead"),
    "NOT_A_HUB": Known(
        "the certificate is the hub's, the answer is no Wardround hub's",
        "show this line to the lead: what stands before the hub?",
    ),
    "CUT_OFF": Known(
        "an answer ended before its end",
        "a proxy or firewall limits sizes or times: ask network IT to lift limits for this host and port (a model is tens of MB)",
    ),
    "ALTERED": Known("bytes arrived changed", "something between rewrites content: ask network IT to exempt this host and port"),
    "LARGE_STALLS": Known(
        "small messages pass and large ones vanish: packets above the path's MTU are dropped without a word",
        "ask network IT to let ICMP 'fragmentation needed' pass or to clamp the MSS on VPN or firewall; or lower the MTU here "
        "(`ip link set dev DEVICE mtu 1280`; for containers the network's mtu option)",
    ),
    "SLOW_LINE": Known(
        "the line is too slow for models",
        "ask network IT what limits this machine; tell the lead: deadlines can be longer",
    ),
    "IDLE_CUT": Known(
        "a connection on which nothing moves is cut before the hub's answer is due",
        "ask network IT to raise the idle time-out for this host and port to 60 s or more: the hub holds a request for 10 s",
    ),
    "CLOCK": Known("this machine's clock and the hub's differ", f"{NTP}; if this clock is right, tell the lead"),
    "VERSION": Known("this program and the hub's are too far apart", "update as the line says; one minor version apart is fine"),
    "ROSTER_OLD": Known(
        "the hub has a newer roster than this site",
        "start the gateway: it brings the newer roster within a minute; if it does not, `wardround-site status` says why",
    ),
    "ROSTER_NEW": Known("this site has a newer roster than the hub", "tell the lead: the hub's folder has an older roster"),
    "NOT_REGISTERED": Known(
        "the hub refused this site's gateway the last time it tried",
        "do as the line says; HTTP 401: the lead has not added this site, or removed it; a wrong clock does it too",
    ),
    # --- files
    "NO_HOME": Known("the site's folder is not there", "name it with --home, mount it, or run `wardround-site init`"),
    "READ_ONLY": Known("a folder cannot be written to", f"mount it writable, or {OWN}"),
    "DISK_FULL": Known("no room is left on the disk", "make room: a ledger that cannot be written stops all training"),
    "DISK_LOW": Known("little room is left on the disk", "make room, or move the folder to a larger disk, before training starts"),
    "INODES": Known(
        "the disk has room but no more files can be made on it",
        "delete files nobody needs (`df -i` shows where)",
    ),
    "OPEN_TO_OTHERS": Known("other users can read or write a key or a private folder", OWN),
    "OTHER_OWNER": Known("a key or folder belongs to another user than the one who runs this", OWN),
    "LINKED_KEY": Known(
        "a key is a link or no plain file", "put the key itself there: a link can point where backup and permissions do not reach"
    ),
    "KEY_MISSING": Known("a key is not there", "restore it from your backup; keys of a site are never made anew under the same id"),
    "SOCKET_PATH": Known(
        "the socket's path is longer than the system allows",
        "use a shorter --home, such as /srv/wardround",
    ),
    # --- the machine
    "MEMORY": Known(
        "less memory than the site's tasks need",
        "raise the container's memory limit or give the machine more; or serve fewer or smaller tasks (`task:` in site.yaml)",
    ),
    "MEMORY_OPEN": Known(
        "the system does not let a process close its memory to others",
        "run the guard on Linux, prctl allowed (seccomp)",
    ),
    "DEVICE": Known("the accelerator that site.yaml asks for cannot be used", "follow the line, or set `device: auto` or `cpu`"),
    # --- the site
    "CONFIG": Known("site.yaml is missing or cannot be read", "correct site.yaml as the line says; conf/site.yaml is an example"),
    "TASK": Known("site.yaml names a task that is not installed here", "correct `task:`, or install the package that has it"),
    "ROSTER_MISSING": Known("no roster that verifies is here", "run `wardround-site join INVITE` with the lead's invite"),
    "LEFT": Known("this site left the consortium for good", "to take part again, become a site anew in another folder"),
    "ROSTER_KEY": Known("the roster does not list this site with this key", "telephone the lead: compare fingerprints"),
    "POLICY_MISSING": Known("there is no policy: nothing trains", "write policy.yaml (conf/policy.example.yaml is an example)"),
    "POLICY_BAD": Known("the policy cannot be used: nothing trains", "correct policy.yaml as the line says"),
    "LEDGER_MISSING": Known(
        "the ledger is not there", "join first; if there was one, restore ledger.jsonl and ledger.jsonl.head from your backup"
    ),
    "LEDGER_HELD": Known(
        "another program holds the ledger and no guard answers",
        "find it (`fuser -v ledger.jsonl`) and stop it: only one guard may run on a ledger",
    ),
    "LEDGER_BAD": Known(
        "the ledger does not verify", "do not repair it: restore both files of the newest backup, and tell the auditor"
    ),
    "DATA_MISSING": Known(
        "the data folder is not there, empty, or cannot be read",
        "mount it (in the guard's container, read-only), correct `data:` in site.yaml, or let the guard's user read it",
    ),
    "DATA_BAD": Known(
        "a table is not as the data contract says",
        "hand this line to whoever exports the data; `wardround-site data validate` shows every finding",
    ),
    "DATA_NOBODY": Known(
        "no patient is left for training a task", "`wardround-site data validate` and `data profile` show who is left out, and why"
    ),
    # --- any
    "SLOW": Known(
        "a check did not end in its time",
        "usually a disk or file server that does not answer: look at `mount` and `dmesg`",
    ),
    "SYSTEM": Known("the system refused something", "follow the system's words; usually permissions or a missing mount"),
    "OTHER": Known("anything else; the line says what to do", "follow the line"),
}


def table() -> str:
    """The README's table: one line for each problem."""
    rows = [f"| `{code}` | {known.means} | {known.remedy} |" for code, known in PROBLEMS.items()]
    return "\n".join(["| what check says | what it means | what to do |", "| --- | --- | --- |", *rows])
