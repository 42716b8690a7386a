//! Loopback and the one network interface, by netlink: a sandbox need not have any program for it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The sandbox's own address, the same in every sandbox.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
/// The host's side of the interface.
pub const HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
const PREFIX: u8 = 30;
const LOOPBACK: u32 = 1;
const ANNOUNCE: &str = "/proc/sys/net/ipv4/conf/eth0/arp_notify";
const INTERFACE_INDEX: &str = "/sys/class/net/eth0/ifindex";

// From linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_addr.h.
const HEADER_SIZE: usize = 16;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Brings both interfaces up, with the address and the way out.
pub fn set_up() -> io::Result<()> {
    request(&link_up(LOOPBACK))?;
    let index = fs::read_to_string(INTERFACE_INDEX)?.trim().parse().map_err(io::Error::other)?;
    // A host that has asked for this address already is told at once, instead of when it asks again a second later.
    fs::write(ANNOUNCE, "1")?;
    request(&address(index))?;
    request(&link_up(index))?;
    request(&default_route(index))
}

/// Sends one message and waits for the kernel's verdict.
fn request(message: &[u8]) -> io::Result<()> {
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    verdict(&answer[..length])
}

fn verdict(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, field(HEADER_SIZE)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn link_up(index: u32) -> Vec<u8> {
    // struct ifinfomsg: family, padding, type, index, flags, mask of flags.
    let mut body = vec![0; 4];
    for field in [index, IFF_UP, IFF_UP] {
        body.extend(field.to_ne_bytes());
    }
    message(RTM_NEWLINK, 0, &body)
}

fn address(index: u32) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![AF_INET, PREFIX, 0, RT_SCOPE_UNIVERSE];
    body.extend(index.to_ne_bytes());
    body.extend(attribute(IFA_LOCAL, GUEST.octets()));
    body.extend(attribute(IFA_ADDRESS, GUEST.octets()));
    message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

fn default_route(index: u32) -> Vec<u8> {
    // struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
    let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
    body.extend(attribute(RTA_GATEWAY, HOST.octets()));
    body.extend(attribute(RTA_OIF, index.to_ne_bytes()));
    message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

fn attribute(kind: u16, value: [u8; 4]) -> [u8; 8] {
    let (length, kind) = (8u16.to_ne_bytes(), kind.to_ne_bytes());
    let [a, b, c, d] = value;
    [length[0], length[1], kind[0], kind[1], a, b, c, d]
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_SIZE + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_SIZE + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    // Sequence number and sender: there is one message and one answer.
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_how_long_they_are() {
        for message in [link_up(2), address(2), default_route(2)] {
            assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len());
            assert_eq!(message.len() % 4, 0);
        }
    }

    #[test]
    fn a_refusal_is_an_error() {
        let answer = |errno: i32| [message(NLMSG_ERROR, 0, &errno.to_ne_bytes()).as_slice(), &[0; 16]].concat();
        assert!(verdict(&answer(0)).is_ok());
        assert_eq!(verdict(&answer(-1)).unwrap_err().raw_os_error(), Some(1));
        assert!(verdict(&[]).is_err());
    }
}
