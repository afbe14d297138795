//! Where a callback never goes: pure, on one URL and one address.
//!
//! A tenant names the URL, and the ledger stands inside the cluster. It must not be made to reach what only the inside
//! reaches: other pods, a node, a cloud's metadata service. So an address is allowed only where it is one of the public
//! internet's, by IANA's registries of special-purpose addresses
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>), or where the platform's operator allows it.
//! Never resolves a name: `post` asks about each address that a name resolves to, and connects to those alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;

/// IPv4 that is not the public internet's.
const CLOSED_V4: [Ipv4Net; 16] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    // Carriers' NAT, and some clouds' metadata.
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    // Clouds' metadata: 169.254.169.254.
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    v4([224, 0, 0, 0], 4),
    // Reserved, and the broadcast address.
    v4([240, 0, 0, 0], 4),
    // A public address that is each Azure machine's own host.
    v4([168, 63, 129, 16], 32),
];

/// All of IPv6 that is handed out to the public internet …
const OPEN_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// … but for these.
const CLOSED_V6: [Ipv6Net; 3] = [
    // Teredo, which holds an IPv4 address in disguise, benchmarking, ORCHID.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0x0db8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];
/// 6to4, with an IPv4 address behind the prefix (RFC 3056).
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);
/// NAT64, with an IPv4 address at the end (RFC 6052): what a cluster without IPv4 sees of the IPv4 internet.
const NAT64: Ipv6Net = v6([0x0064, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Why a callback goes nowhere. Says nothing of what a name resolves to: the inside is not to be looked at so either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("its URL cannot be read, or has a user or a fragment")]
    Url,
    #[error("its URL is not https, and its host is not among those that this platform allows")]
    Scheme,
    #[error("its host has no public address, and is not among those that this platform allows")]
    Address,
}

/// Why an entry of the list is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host (example.com, *.example.com), nor an address, nor a network (10.1.0.0/16)")]
pub struct AllowListError(String);

/// What the platform's operator allows besides the public internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
}

impl AllowList {
    /// Reads entries: a host may have any address and be asked in plain HTTP, a network's addresses are as good as public.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, AllowListError> {
        let mut list = Self::default();
        for entry in entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()) {
            if let Ok(network) = entry.parse() {
                list.networks.push(network);
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                list.networks.push(address.into());
            } else if is_host(entry.strip_prefix("*.").unwrap_or(entry)) {
                list.hosts.push(entry.to_ascii_lowercase());
            } else {
                return Err(AllowListError(entry.to_owned()));
            }
        }
        Ok(list)
    }

    /// Reads a callback's URL; one that names an address is judged whole, since nobody resolves that.
    pub(crate) fn judge_url(&self, text: &str) -> Result<Url, Refusal> {
        let url = Url::parse(text).map_err(|_| Refusal::Url)?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        let host = url.host_str().filter(|_| is_plain).ok_or(Refusal::Url)?;
        // An IPv6 address stands in brackets there; the parser has made every form of IPv4 the plain one.
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let is_allowed = match address {
            Some(address) => self.allows_network(address),
            None => self.allows_host(host),
        };
        match url.scheme() {
            "https" => {}
            "http" if is_allowed => {}
            "http" => return Err(Refusal::Scheme),
            _ => return Err(Refusal::Url),
        }
        if address.is_some_and(|address| !is_allowed && !is_public(address)) {
            return Err(Refusal::Address);
        }
        Ok(url)
    }

    /// Whether a host that resolves to this address may be connected to there.
    pub(crate) fn allows(&self, host: &str, address: IpAddr) -> bool {
        is_public(address) || self.allows_host(host) || self.allows_network(address)
    }

    fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.hosts.iter().any(|allowed| match allowed.strip_prefix('*') {
            Some(tail) => host.len() > tail.len() && host.ends_with(tail),
            None => host == *allowed,
        })
    }

    fn allows_network(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        plain && !label.is_empty() && label.len() <= 63
    };
    // What ends in a number is an address, or nearly one.
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 253 && text.split('.').all(is_label) && !text.rsplit('.').next().is_some_and(is_number)
}

/// Whether an address is one of the public internet's, however it is written.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !CLOSED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => is_public(IpAddr::V4(inner)),
            None => OPEN_V6.contains(&address) && !CLOSED_V6.iter().any(|network| network.contains(&address)),
        },
    }
}

/// The IPv4 address that packets to this one end up at.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = |first: usize| Ipv4Addr::new(bytes[first], bytes[first + 1], bytes[first + 2], bytes[first + 3]);
    if SIX_TO_FOUR.contains(&address) {
        return Some(at(2));
    }
    NAT64.contains(&address).then(|| at(12))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    #[test]
    fn what_is_not_the_public_internets_is_refused_in_every_disguise() {
        let v4 = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 \
             127.255.255.254 169.254.169.254 169.254.0.1 168.63.129.16 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 \
             192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.255 \
             240.0.0.1 255.255.255.255";
        let v6 = ":: ::1 fe80::1 febf::1 fec0::1 fc00::1 fd12:3456:789a::1 fd00:ec2::254 ff02::1 ff0e::1 100::1 \
             2001:db8::1 3fff::1 5f00::1 2001:2::1 2001:10::1 2001:20::1";
        // Mapped, compatible, translated, 6to4, NAT64 (well-known and local), Teredo.
        let embedding = "::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 \
             ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8 2002:7f00:1:: 2002:a9fe:a9fe::1 2002:a00:1::1 64:ff9b::127.0.0.1 \
             64:ff9b::169.254.169.254 64:ff9b::a00:1 64:ff9b:1::8.8.8.8 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001::1";
        let closed = [v4, v6, embedding].into_iter().flat_map(str::split_whitespace);
        for text in closed {
            assert!(!public(text), "{text}");
        }
    }

    #[test]
    fn the_public_internet_is_open() {
        let open = "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.0.0.1 128.0.0.1 \
             169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 \
             198.20.0.0 223.255.255.255 2606:4700:4700::1111 2a00:1450:4001::200e 2001:4860:4860::8888 \
             ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1";
        for text in open.split_whitespace() {
            assert!(public(text), "{text}");
        }
    }

    #[test]
    fn a_url_that_names_an_address_is_judged_whole() {
        let list = AllowList::default();
        let refused = [
            ("https://127.0.0.1/", Refusal::Address),
            ("https://2130706433/", Refusal::Address),
            ("https://0x7f.1/", Refusal::Address),
            ("https://0177.0.0.1/", Refusal::Address),
            ("https://[::1]:8443/", Refusal::Address),
            ("https://[::ffff:a9fe:a9fe]/latest", Refusal::Address),
            ("http://8.8.8.8/", Refusal::Scheme),
            ("http://example.com/", Refusal::Scheme),
            ("https://user@example.com/", Refusal::Url),
            ("https://:word@example.com/", Refusal::Url),
            ("https://example.com/#part", Refusal::Url),
            ("ftp://example.com/", Refusal::Url),
            ("file:///etc/passwd", Refusal::Url),
            ("example.com", Refusal::Url),
        ];
        for (url, refusal) in refused {
            assert_eq!(list.judge_url(url), Err(refusal), "{url}");
        }
        for url in ["https://8.8.8.8/x?y=z", "https://example.com:8443/", "https://localhost/"] {
            assert!(list.judge_url(url).is_ok(), "{url}: names are judged by what they resolve to");
        }
    }

    #[test]
    fn what_the_platforms_operator_allows_is_open() {
        let list = AllowList::parse(["10.1.0.0/16", "fd00:1::/32", "192.168.7.7", "hook.corp", "*.lan", " "]);
        let list = list.unwrap();
        let allows = |host: &str, address: &str| list.allows(host, address.parse().unwrap());
        assert!(allows("any.example", "10.1.2.3") && allows("any.example", "::ffff:10.1.2.3"));
        assert!(allows("any.example", "fd00:1::7") && allows("any.example", "192.168.7.7"));
        assert!(
            allows("hook.corp", "10.2.0.1") && allows("Hook.Corp.", "127.0.0.1") && allows("a.b.lan", "::1")
        );
        for (host, address) in [("any.example", "10.2.0.1"), ("lan", "10.2.0.1"), ("xhook.corp", "::1")] {
            assert!(!allows(host, address), "{host} {address}");
        }
        assert!(list.judge_url("http://hook.corp/x").is_ok() && list.judge_url("http://10.1.2.3/").is_ok());
        assert_eq!(list.judge_url("http://any.example/"), Err(Refusal::Scheme));
        assert_eq!(list.judge_url("https://10.2.0.1/"), Err(Refusal::Address));
        for odd in ["10.1.0.0/33", "10.1", "a b", "*", "https://x", "1.2.3.999"] {
            assert!(AllowList::parse([odd]).is_err(), "{odd}");
        }
    }
}
