//! The node: handles to everything a verb may need, and no methods. Built once, by `app`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::events::EventLog;
use super::images::Images;
use super::inside::Insides;
use super::network::NetworkState;
use super::shared_dir::SharedDir;
use super::task::kept::Kept;
use super::terminal::Terminals;
use super::vps::VpsDesk;
use crate::docker::{Engine, EngineInfo};
use crate::host::Host;
use crate::host::outbox::Outbox;
use crate::lanes::Lanes;
use crate::machine::first_writes::FirstWrites;
use crate::machine::tree_watch::TreeWatches;
use crate::model::ids::TaskId;
use crate::model::settings::Settings;
use crate::model::time::Stamp;
use crate::model::topology::Topology;
use crate::serve::Access;
use crate::stop::Stop;
use crate::store::Table;

/// Everything a verb may need.
pub struct Node {
    pub settings: Settings,
    pub topology: Topology,
    pub engine: Engine,
    pub tasks: Table,
    pub lanes: Lanes,
    /// `None` on a standalone node.
    pub host: Option<Arc<Host>>,
    pub outbox: Arc<Outbox>,
    /// What the Engine says about itself; unknown until it was asked.
    pub engine_facts: Mutex<Option<EngineInfo>>,
    pub images: Images,
    pub network: NetworkState,
    pub shared_dir: SharedDir,
    pub events: EventLog,
    /// Sees a task's first byte of output; `None` where the kernel had no inotify instance left.
    pub first_writes: Option<FirstWrites>,
    /// The ways into running containers.
    pub insides: Insides,
    pub terminals: Terminals,
    /// What the watch sessions of peers hold.
    pub tree_watches: TreeWatches,
    /// Ends that the Engine has told and the task's lane has not dealt with yet.
    pub exits: Mutex<HashMap<TaskId, Exit>>,
    pub vps: VpsDesk,
    /// Who may call us; `/health` tells who was turned away.
    pub access: Arc<Access>,
    /// Ended tasks whose containers are kept until the host knows.
    pub kept: Mutex<Kept>,
    /// Asks the sweep for a reconciliation now; a full queue has one waiting already.
    pub reconcile_wanted: Sender<()>,
    pub stop: Stop,
    pub started: Instant,
}

/// How a container ended, as far as the Engine told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The `die` event: code and moment.
    Told { code: i64, at: Stamp },
    /// Found ended or gone, or the event was lost: ask the Engine.
    Found,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("node_id", &self.settings.node_id).finish_non_exhaustive()
    }
}
