//! Address ranges: networks that containers live in, and ranges that callers may come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 network such as `172.30.0.0/16`. Parsed ones have no bits set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub base: Ipv4Addr,
    pub prefix: u8,
}

/// An address range of either family that callers may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub base: IpAddr,
    pub prefix: u8,
}

/// `BASE/NET/NODE/SUB`, how the cluster's overlay addresses are divided (contract 5.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayPlan {
    pub base: Ipv4Addr,
    pub net_bits: u8,
    pub node_bits: u8,
    pub sub_bits: u8,
}

/// The text is no address range of the wanted form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARange;

impl Subnet {
    /// Whether `address` lies in this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.base.to_bits()) & mask_v4(self.prefix) == 0
    }

    /// Whether a member of this network can have `address`: any in it but the first, which is the
    /// network's own, and the last, which is for broadcasts. A network of two is all members.
    pub fn has_member(&self, address: Ipv4Addr) -> bool {
        const NO_BROADCAST_PREFIX: u8 = 31;
        let host_bits = address.to_bits() & !mask_v4(self.prefix);
        let is_special = host_bits == 0 || host_bits == !mask_v4(self.prefix);
        self.contains(address) && (self.prefix >= NO_BROADCAST_PREFIX || !is_special)
    }
}

impl Cidr {
    /// Whether `address` lies in this range. An IPv4 address written as IPv6 (`::ffff:…`) counts
    /// as the IPv4 address it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                Subnet { base, prefix: self.prefix }.contains(address)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (address.to_bits() ^ base.to_bits()) & mask_v6(self.prefix) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether every address of one family is in it.
    pub fn is_everyone(&self) -> bool {
        self.prefix == 0
    }

    fn of_v4(base: Ipv4Addr, prefix: u8) -> Cidr {
        let base = Ipv4Addr::from_bits(base.to_bits() & mask_v4(prefix));
        Cidr { base: IpAddr::V4(base), prefix }
    }
}

/// The mask of `prefix` leading ones; a prefix of 32 and more is all ones.
fn mask_v4(prefix: u8) -> u32 {
    !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

fn mask_v6(prefix: u8) -> u128 {
    !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Subnet, NotARange> {
        let (base, prefix) = text.trim().split_once('/').ok_or(NotARange)?;
        let base: Ipv4Addr = base.parse().map_err(|_| NotARange)?;
        let prefix = bits(prefix, 32)?;
        Ok(Subnet { base: Ipv4Addr::from_bits(base.to_bits() & mask_v4(prefix)), prefix })
    }
}

impl FromStr for Cidr {
    type Err = NotARange;

    /// `ADDRESS/PREFIX`, or a bare address, which is a range of one.
    fn from_str(text: &str) -> Result<Cidr, NotARange> {
        let text = text.trim();
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NotARange)?;
        let widest = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(widest), |prefix| bits(prefix, widest))?;
        Ok(match (base, base.to_canonical()) {
            // `::ffff:10.0.0.0/104` is how some tools write `10.0.0.0/8`.
            (IpAddr::V6(_), IpAddr::V4(inner)) if prefix >= 96 => Cidr::of_v4(inner, prefix - 96),
            (IpAddr::V4(base), _) => Cidr::of_v4(base, prefix),
            (IpAddr::V6(base), _) => {
                let base = Ipv6Addr::from_bits(base.to_bits() & mask_v6(prefix));
                Cidr { base: IpAddr::V6(base), prefix }
            }
        })
    }
}

impl FromStr for OverlayPlan {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<OverlayPlan, NotARange> {
        let mut parts = text.trim().split('/');
        let mut next = || parts.next().ok_or(NotARange);
        let base: Ipv4Addr = next()?.parse().map_err(|_| NotARange)?;
        let (net_bits, node_bits) = (bits(next()?, 24)?, bits(next()?, 16)?);
        let sub_bits = bits(next()?, 32)?;
        let sound = net_bits >= 1 && node_bits >= 1 && sub_bits >= 8;
        if parts.next().is_some() || !sound || net_bits + node_bits + sub_bits != 32 {
            return Err(NotARange);
        }
        let base = Ipv4Addr::from_bits(base.to_bits() & mask_v4(net_bits));
        Ok(OverlayPlan { base, net_bits, node_bits, sub_bits })
    }
}

fn bits(text: &str, most: u8) -> Result<u8, NotARange> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotARange);
    }
    text.parse().ok().filter(|bits| *bits <= most).ok_or(NotARange)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Display for OverlayPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.base, self.net_bits, self.node_bits, self.sub_bits)
    }
}

impl fmt::Display for NotARange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address range")
    }
}

impl std::error::Error for NotARange {}

#[cfg(test)]
mod test {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnet_holds_its_first_and_last_address_and_not_the_next() {
        let net = subnet("172.30.0.0/16");
        assert!(net.contains(Ipv4Addr::new(172, 30, 0, 0)));
        assert!(net.contains(Ipv4Addr::new(172, 30, 255, 255)));
        assert!(!net.contains(Ipv4Addr::new(172, 31, 0, 0)));
        assert!(!net.contains(Ipv4Addr::new(172, 29, 255, 255)));
    }

    #[test]
    fn members_are_all_addresses_but_the_first_and_the_last() {
        let net = subnet("10.0.0.0/30");
        let members = (0..6).map(|last| net.has_member(Ipv4Addr::new(10, 0, 0, last)));
        assert_eq!(members.collect::<Vec<_>>(), [false, true, true, false, false, false]);
        assert!(subnet("10.0.0.0/31").has_member(Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!subnet("0.0.0.0/0").has_member(Ipv4Addr::BROADCAST));
    }

    #[test]
    fn subnet_with_bits_behind_the_prefix_is_cut_to_its_base() {
        assert_eq!(subnet("172.30.7.9/16").to_string(), "172.30.0.0/16");
    }

    #[test]
    fn subnet_of_all_or_of_one_address_does_not_overflow() {
        assert!(subnet("1.2.3.4/0").contains(Ipv4Addr::BROADCAST));
        assert!(subnet("1.2.3.4/32").contains(Ipv4Addr::new(1, 2, 3, 4)));
        assert!(!subnet("1.2.3.4/32").contains(Ipv4Addr::new(1, 2, 3, 5)));
    }

    #[test]
    fn subnet_without_a_prefix_or_with_a_wrong_one_is_refused() {
        assert_eq!("172.30.0.0".parse::<Subnet>(), Err(NotARange));
        assert_eq!("172.30.0.0/33".parse::<Subnet>(), Err(NotARange));
        assert_eq!("172.30.0.0/+8".parse::<Subnet>(), Err(NotARange));
        assert_eq!("172.30.0/16".parse::<Subnet>(), Err(NotARange));
    }

    #[test]
    fn bare_address_is_a_range_of_one() {
        assert_eq!(cidr("10.0.0.5").to_string(), "10.0.0.5/32");
        assert_eq!(cidr("fd00::1").to_string(), "fd00::1/128");
    }

    #[test]
    fn ipv4_address_written_as_ipv6_is_found_in_an_ipv4_range() {
        assert!(cidr("10.0.0.0/8").contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!cidr("10.0.0.0/8").contains("::ffff:11.1.2.3".parse().unwrap()));
        assert_eq!(cidr("::ffff:10.0.0.0/104"), cidr("10.0.0.0/8"));
    }

    #[test]
    fn families_do_not_mix() {
        assert!(!cidr("0.0.0.0/0").contains("fd00::1".parse().unwrap()));
        assert!(cidr("fd00::/8").contains("fd12::1".parse().unwrap()));
        assert!(!cidr("fd00::/8").contains("fe00::1".parse().unwrap()));
    }

    #[test]
    fn everyone_is_a_prefix_of_zero() {
        assert!(cidr("0.0.0.0/0").is_everyone());
        assert!(!cidr("10.0.0.0/8").is_everyone());
    }

    #[test]
    fn overlay_plan_needs_bits_that_make_32() {
        let plan: OverlayPlan = "10.128.0.0/12/6/14".parse().unwrap();
        assert_eq!(plan.to_string(), "10.128.0.0/12/6/14");
        assert_eq!("10.128.0.0/12/6/13".parse::<OverlayPlan>(), Err(NotARange));
        assert_eq!("10.128.0.0/20/6/6".parse::<OverlayPlan>(), Err(NotARange));
        assert_eq!("10.128.0.0/12/6/14/0".parse::<OverlayPlan>(), Err(NotARange));
        assert_eq!("10.128.0.0/12".parse::<OverlayPlan>(), Err(NotARange));
    }
}
