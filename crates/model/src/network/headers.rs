//! Headers that a sandbox's requests get on their way out, so that what they prove is never inside the sandbox. Knows which
//! requests get which, and not how.

use std::collections::BTreeMap;

use super::destination::{DomainPattern, InvalidDestination};
use super::secret::Secret;

/// Those that say whom a request is for, or where it ends.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The headers that requests to each domain get, in the place of their own of those names. `P` is a header's value: as it
/// is, sealed, or left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeaders<P = Secret>(Vec<(DomainPattern, BTreeMap<String, P>)>);

/// The same as it is written: values by domain and name.
pub type HeaderWords<P = Secret> = BTreeMap<String, BTreeMap<String, P>>;

/// Words that are no such headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    /// Too many domains.
    #[error("there may be at most {} domains", RequestHeaders::MOST_DOMAINS)]
    Domains,
    /// A domain is none.
    #[error("{0:?} is no domain or *.domain of at most {most} characters", most = RequestHeaders::LONGEST_DOMAIN)]
    Domain(String),
    /// A domain is there twice.
    #[error("{0} is named twice")]
    Twice(String),
    /// Too many for a domain.
    #[error("{0}: there may be at most {most} headers", most = RequestHeaders::MOST_HEADERS)]
    Headers(String),
    /// A header is called as none is, or as one that says where the request goes or ends.
    #[error("{0:?} is no name, of at most {most} characters, of a header that can be set", most = RequestHeaders::LONGEST_NAME)]
    Name(String),
    /// A value is none.
    #[error("the value of {0} must be printable ASCII, of at most {most} characters", most = RequestHeaders::LONGEST_VALUE)]
    Value(String),
}

impl Secret {
    /// The value of a header, which has this name.
    pub fn header_value(name: &str, text: String) -> Result<Self, InvalidHeaders> {
        let is_value = text.len() <= RequestHeaders::LONGEST_VALUE
            && text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
        if is_value { Ok(Self(text)) } else { Err(InvalidHeaders::Value(name.to_owned())) }
    }
}

impl RequestHeaders {
    /// Domains that there may be.
    pub const MOST_DOMAINS: usize = 10;
    /// Characters of a domain.
    pub const LONGEST_DOMAIN: usize = 128;
    /// Headers that a domain may have.
    pub const MOST_HEADERS: usize = 20;
    /// Characters of a header's name.
    pub const LONGEST_NAME: usize = 64;
    /// Characters of a header's value.
    pub const LONGEST_VALUE: usize = 2048;
    /// What a header's name is, as a regular expression; those that say where a request goes or ends are none.
    pub const NAME_PATTERN: &str = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$";
}

impl<P> RequestHeaders<P> {
    /// Whether no request gets any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The domains whose requests get some.
    pub fn domains(&self) -> impl Iterator<Item = &DomainPattern> {
        self.0.iter().map(|(domain, _)| domain)
    }

    /// What a request to a host of this name gets, by names in lower case: what is said of the name itself, or else of the
    /// longest that it is below.
    pub fn of(&self, name: &str) -> Option<&BTreeMap<String, P>> {
        let matching = self.0.iter().filter(|(domain, _)| domain.matches(name));
        matching.max_by_key(|(domain, _)| domain.closeness()).map(|(_, headers)| headers)
    }

    /// In words.
    pub fn words(&self) -> HeaderWords<P>
    where
        P: Clone,
    {
        self.0.iter().map(|(domain, headers)| (domain.to_string(), headers.clone())).collect()
    }

    /// The same with their values in another form.
    pub fn with_secrets<Q, E>(self, mut change: impl FnMut(P) -> Result<Q, E>) -> Result<RequestHeaders<Q>, E> {
        let change = |(domain, headers): (DomainPattern, BTreeMap<String, P>)| {
            let headers = headers.into_iter().map(|(name, value)| Ok((name, change(value)?)));
            Ok((domain, headers.collect::<Result<_, E>>()?))
        };
        self.0.into_iter().map(change).collect::<Result<_, E>>().map(RequestHeaders)
    }
}

impl<P> Default for RequestHeaders<P> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<P> TryFrom<HeaderWords<P>> for RequestHeaders<P> {
    type Error = InvalidHeaders;

    /// A domain without headers is as one that is not there.
    fn try_from(words: HeaderWords<P>) -> Result<Self, InvalidHeaders> {
        if words.len() > RequestHeaders::MOST_DOMAINS {
            return Err(InvalidHeaders::Domains);
        }
        let mut all: Vec<(DomainPattern, BTreeMap<String, P>)> = Vec::new();
        for (text, headers) in words {
            let domain = domain(&text)?;
            if all.iter().any(|(other, _)| *other == domain) {
                return Err(InvalidHeaders::Twice(domain.to_string()));
            }
            if headers.len() > RequestHeaders::MOST_HEADERS {
                return Err(InvalidHeaders::Headers(text));
            }
            all.push((domain, named(headers)?));
        }
        all.retain(|(_, headers)| !headers.is_empty());
        Ok(Self(all))
    }
}

fn domain(text: &str) -> Result<DomainPattern, InvalidHeaders> {
    let parsed = text.parse().map_err(|_: InvalidDestination| InvalidHeaders::Domain(text.to_owned()));
    parsed.and_then(|domain| match text.len() {
        ..=RequestHeaders::LONGEST_DOMAIN => Ok(domain),
        _ => Err(InvalidHeaders::Domain(text.to_owned())),
    })
}

/// By names in lower case, as HTTP makes no difference.
fn named<P>(headers: BTreeMap<String, P>) -> Result<BTreeMap<String, P>, InvalidHeaders> {
    let mut all = BTreeMap::new();
    for (text, value) in headers {
        let name = text.to_ascii_lowercase();
        let is_name = (1..=RequestHeaders::LONGEST_NAME).contains(&name.len())
            && name.bytes().all(is_token)
            && !FRAMING.contains(&name.as_str());
        if !is_name {
            return Err(InvalidHeaders::Name(text));
        }
        if all.insert(name, value).is_some() {
            return Err(InvalidHeaders::Twice(text));
        }
    }
    Ok(all)
}

/// Whether a byte may be in the name of a header (RFC 9110, 5.6.2).
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(words: &[(&str, &[&str])]) -> Result<RequestHeaders<()>, InvalidHeaders> {
        let words = words
            .iter()
            .map(|(domain, names)| ((*domain).to_owned(), names.iter().map(|name| ((*name).to_owned(), ())).collect()));
        HeaderWords::from_iter(words).try_into()
    }

    #[test]
    fn a_request_gets_what_is_said_of_its_host_or_of_the_closest_above_it() {
        let all =
            headers(&[("API.example.com", &["A"]), ("*.example.com", &["B"]), ("*.a.example.com", &["C"])]).unwrap();
        let of = |name: &str| all.of(name).map(|headers| headers.keys().cloned().collect::<Vec<_>>());
        assert_eq!(of("api.example.com").unwrap(), ["a"]);
        assert_eq!(of("www.example.com").unwrap(), ["b"]);
        assert_eq!(of("x.a.example.com").unwrap(), ["c"]);
        assert_eq!(of("a.example.com").unwrap(), ["b"]);
        assert_eq!((of("example.com"), of("example.org")), (None, None));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_and_a_domain_without_headers_is_none() {
        assert!(headers(&[("a.b", &[])]).unwrap().is_empty());
        for name in
            ["", "Host", "Content-Length", "transfer-encoding", "Connection", "a b", "a:", "\u{e4}", &"x".repeat(65)]
        {
            assert_eq!(headers(&[("a.b", &[name])]), Err(InvalidHeaders::Name(name.to_owned())), "{name:?}");
        }
        for domain in ["", "*", "1.2.3.4", "10.0.0.0/8", "a.b:80", &format!("{}com", "a.".repeat(63))] {
            assert_eq!(headers(&[(domain, &["x"])]), Err(InvalidHeaders::Domain(domain.to_owned())), "{domain:?}");
        }
        assert_eq!(headers(&[("a.b", &["x"]), ("A.B", &["x"])]), Err(InvalidHeaders::Twice("a.b".to_owned())));
        assert_eq!(headers(&[("a.b", &["x", "X"])]), Err(InvalidHeaders::Twice("x".to_owned())));
        for value in ["a\r\nb", "a\0", "\u{e4}", &"x".repeat(2049)] {
            assert_eq!(Secret::header_value("x", value.to_owned()), Err(InvalidHeaders::Value("x".to_owned())));
        }
        assert_eq!(Secret::header_value("x", "a\tb ~".to_owned()).unwrap().reveal(), "a\tb ~");
    }

    #[test]
    fn there_are_only_so_many() {
        let names: Vec<_> = (0..=20).map(|index| format!("x{index}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(headers(&[("a.b", &names[..20])]).is_ok());
        assert_eq!(headers(&[("a.b", &names)]), Err(InvalidHeaders::Headers("a.b".to_owned())));
        let domains: Vec<_> = (0..=10).map(|index| format!("x{index}.com")).collect();
        let all: Vec<_> = domains.iter().map(|domain| (domain.as_str(), &names[..1])).collect();
        assert!(headers(&all[..10]).is_ok());
        assert_eq!(headers(&all), Err(InvalidHeaders::Domains));
    }
}
