//! DNS messages, as far as a resolver for guests needs them: one question, and the addresses of an answer. Pure; every byte
//! may be hostile. No byte of an answer is passed on: guests get messages that are made here.

use std::net::Ipv4Addr;

/// The kind of record that holds an IPv4 address.
pub(super) const A: u16 = 1;
const INTERNET: u16 = 1;

/// Addresses that are taken from one answer.
const MOST_ADDRESSES: usize = 16;

const HEADER: usize = 12;
const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const RESULT: u16 = 0x000f;
const NO_SUCH_NAME: u16 = 3;

/// What a guest asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: u16,
    /// In lower case.
    pub name: String,
    pub kind: u16,
}

/// What a guest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// These, for so many seconds.
    Addresses(&'a [Ipv4Addr], u32),
    /// Nothing of this kind.
    Nothing,
    /// It may not know.
    Refused,
    /// It could not be found out.
    Failed,
}

/// The addresses of a name, and for how many seconds they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub addresses: Vec<Ipv4Addr>,
    pub seconds: u32,
}

/// The one question of a message; none where it is anything else.
pub(super) fn question(message: &[u8]) -> Option<Question> {
    let flags = number(message, 2)?;
    if flags & (IS_ANSWER | OPCODE) != 0 || number(message, 4)? != 1 {
        return None;
    }
    let (name, after) = plain_name(message, HEADER)?;
    let (kind, class) = (number(message, after)?, number(message, after + 2)?);
    (class == INTERNET).then_some(Question { id: number(message, 0)?, name, kind })
}

/// The message that answers a question.
pub(super) fn reply(question: &Question, reply: Reply<'_>) -> Vec<u8> {
    let (addresses, seconds, result) = match reply {
        Reply::Addresses(addresses, seconds) => (addresses, seconds, 0),
        Reply::Nothing => (&[][..], 0, 0),
        Reply::Failed => (&[][..], 0, 2),
        Reply::Refused => (&[][..], 0, 5),
    };
    let flags = IS_ANSWER | RECURSION_DESIRED | RECURSION_AVAILABLE | result;
    let count = u16::try_from(addresses.len()).unwrap_or(0);
    let mut message = header(question.id, flags, count);
    put_question(&mut message, &question.name, question.kind);
    for address in addresses {
        // The name is that of the question, which begins behind the header.
        message.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        message.extend(seconds.to_be_bytes());
        message.extend([0, 4]);
        message.extend(address.octets());
    }
    message
}

/// A question for the addresses of a name.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = header(id, RECURSION_DESIRED, 0);
    put_question(&mut message, name, A);
    message
}

/// The addresses in the answer to [`query`]; none where it is no such answer, or says that something failed.
pub(super) fn addresses(message: &[u8], id: u16, name: &str) -> Option<Found> {
    let flags = number(message, 2)?;
    let is_ours = number(message, 0)? == id && flags & IS_ANSWER != 0 && number(message, 4)? == 1;
    let (asked, after) = plain_name(message, HEADER)?;
    if !is_ours || asked != name {
        return None;
    }
    let mut found = Found { addresses: Vec::new(), seconds: u32::MAX };
    match flags & RESULT {
        0 => {}
        NO_SUCH_NAME => return Some(found),
        _ => return None,
    }
    let mut at = after + 4;
    for _ in 0..number(message, 6)? {
        at = skip_name(message, at)?;
        let (kind, class) = (number(message, at)?, number(message, at + 2)?);
        let seconds = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
        let length = usize::from(number(message, at + 8)?);
        let data = message.get(at + 10..at + 10 + length)?;
        if let (A, INTERNET, Ok(octets)) = (kind, class, <[u8; 4]>::try_from(data))
            && found.addresses.len() < MOST_ADDRESSES
        {
            found.addresses.push(octets.into());
            found.seconds = found.seconds.min(seconds);
        }
        at += 10 + length;
    }
    Some(found)
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A name without pointers, in lower case and of ordinary letters only, and where it ends.
fn plain_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return Some((name, at));
        }
        let is_ordinary = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        if length > 63 || !label.iter().all(is_ordinary) || name.len() + length > 253 {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
}

/// Where a name ends, which may end in a pointer. None is followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn header(id: u16, flags: u16, answers: u16) -> Vec<u8> {
    [id, flags, 1, answers, 0, 0].iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn put_question(message: &mut Vec<u8>, name: &str, kind: u16) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap_or(0));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(INTERNET.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_is_read_and_answered_in_its_own_words() {
        let asked = question(&query(7, "www.example.com")).unwrap();
        assert_eq!(asked, Question { id: 7, name: "www.example.com".to_owned(), kind: A });
        let two = [Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(5, 6, 7, 8)];
        let answer = reply(&asked, Reply::Addresses(&two, 60));
        let found = Found { addresses: two.to_vec(), seconds: 60 };
        assert_eq!(addresses(&answer, 7, "www.example.com"), Some(found));
        assert_eq!(addresses(&answer, 8, "www.example.com"), None, "another question's answer");
        assert_eq!(addresses(&answer, 7, "example.com"), None, "another name's answer");
        assert_eq!(reply(&asked, Reply::Refused)[3] & 0xf, 5);
        assert_eq!(addresses(&reply(&asked, Reply::Failed), 7, "www.example.com"), None);
        assert_eq!(addresses(&reply(&asked, Reply::Nothing), 7, "www.example.com").unwrap().addresses.len(), 0);
        assert_eq!(question(&answer), None, "an answer is no question");
    }

    #[test]
    fn what_is_no_plain_question_is_none() {
        let good = query(1, "a.b");
        let change = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            question(&message)
        };
        assert!(change(0, 9).is_some());
        assert_eq!(change(2, 0x28), None, "another operation");
        assert_eq!(change(5, 2), None, "two questions");
        assert_eq!(change(12, 0xc0), None, "a pointer");
        assert_eq!(change(13, b' '), None, "no letter of names");
        assert_eq!(change(13, 0), None);
        assert_eq!(question(&good[..good.len() - 1]), None);
        assert_eq!(question(&query(1, &vec!["a".repeat(60); 5].join("."))), None, "too long");
    }

    proptest! {
        #[test]
        fn no_bytes_do_any_harm(message in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = question(&message);
            let _ = addresses(&message, 0, "");
        }
    }
}
