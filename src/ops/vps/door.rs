//! Whether an SSH server answers at a VPS's port. Called by the `doors` loop.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use crate::limits::{VPS_DOOR_PATIENCE, VPS_DOOR_SILENT_AFTER};
use crate::model::ids::TaskId;
use crate::model::phase::Phase;
use crate::model::time::Stamp;
use crate::model::vps::Door;
use crate::ops::Node;

/// Looks at every door that is being prepared; true if one still is.
pub fn look(node: &Arc<Node>) -> bool {
    let preparing = node.tasks.active(|record| match record.vps.door {
        Door::Preparing(since) if record.phase == Phase::Running => {
            Some((record.spec.id, record.vps.ssh_address, record.vps.ssh_port, since))
        }
        _ => None,
    });
    let mut is_any_left = false;
    for (id, address, port, since) in preparing {
        if node.stop.is_raised() {
            return false;
        }
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let waited = Stamp::now().since(since);
        match banner(SocketAddr::new(address, port)) {
            Ok(()) => becomes(node, id, since, Door::Open),
            Err(_) if waited > VPS_DOOR_SILENT_AFTER => {
                becomes(node, id, since, Door::Silent);
            }
            Err(error) => {
                log::debug!("VPS {id}: port {port}: {error}");
                is_any_left = true;
            }
        }
    }
    is_any_left
}

fn becomes(node: &Arc<Node>, id: TaskId, since: Stamp, door: Door) {
    let is_open = door == Door::Open;
    let changed = node.tasks.update(id, |record| {
        let is_still = record.vps.door == Door::Preparing(since);
        if is_still {
            record.vps.door = door;
            if is_open {
                record.vps.opened.get_or_insert(Stamp::now());
            }
        }
        is_still
    });
    match changed {
        Ok(true) if is_open => node.events.note(id, "ssh_open"),
        Ok(true) => {
            log::warn!("VPS {id}: no SSH server answers at its port");
            node.events.note(id, "ssh_silent");
        }
        Ok(false) => {}
        Err(error) => log::debug!("VPS {id}: {error}"),
    }
}

/// Waits for the first bytes of an SSH server (RFC 4253, section 4.2).
fn banner(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, VPS_DOOR_PATIENCE)?;
    stream.set_read_timeout(Some(VPS_DOOR_PATIENCE))?;
    let mut begin = [0; 4];
    stream.read_exact(&mut begin)?;
    if &begin == b"SSH-" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
