//! Containers made into images. Called by `ops`, on a `patient-N` thread: a commit takes as long as the
//! container is large.

use std::time::Duration;

use serde::Deserialize;

use super::ask::Ask;
use super::names::{checked_name, escaped, filters};
use super::{DockerError, Engine};
use crate::wire::docker as wire;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Committed {
    id: String,
}

impl Engine {
    /// Makes an image `repository:tag` of a container, which is frozen meanwhile, and gives its id.
    ///
    /// # Errors
    /// Missing: the container is gone. At the deadline the Engine may go on: look for the tag.
    pub fn commit_container(
        &self,
        name: &str,
        repository: &str,
        tag: &str,
        message: &str,
        deadline: Duration,
    ) -> Result<String, DockerError> {
        const CALL: &str = "commit container";
        let name = checked_name(CALL, name)?;
        let (repository, tag, message) = (escaped(repository), escaped(tag), escaped(message));
        let target = format!(
            "/commit?container={name}&repo={repository}&tag={tag}&comment={message}&pause=true"
        );
        let committed: Committed = self.ask(&Ask::post(CALL, target).within(deadline))?.json()?;
        Ok(committed.id)
    }

    /// The images that have a name in `repository`.
    pub fn list_images_of(&self, repository: &str) -> Result<Vec<wire::ImageSummary>, DockerError> {
        let wanted = filters(&[("reference", vec![repository])].into());
        self.ask(&Ask::get("list images", format!("/images/json?filters={wanted}")))?.json()
    }
}
