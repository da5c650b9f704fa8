//! The Docker Engine: reachable, new enough, on a storage driver and cgroups that work.

use std::path::Path;

use serde::Deserialize;

use super::Finding;
use crate::cli::client::{Client, ClientError, Target};
use crate::limits;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Version {
    version: String,
    api_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Info {
    driver: String,
    cgroup_version: String,
    cgroup_driver: String,
    docker_root_dir: String,
    memory_limit: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUSet")]
    cpuset: bool,
    warnings: Option<Vec<String>>,
}

/// The first API version with the cgroup version in `/info` (Docker 20.10).
const API_VERSION_MIN: (u32, u32) = (1, 41);

pub fn findings(socket: &Path) -> Vec<Finding> {
    let client = Client::new(Target::Unix(socket.into()), None, limits::DOCTOR_PATIENCE);
    let version: Version = match client.get("/version") {
        Ok(version) => version,
        Err(error) => return vec![unreachable(socket, &error)],
    };
    let mut findings = vec![version_finding(&version)];
    match client.get::<Info>("/info") {
        Ok(info) => findings.extend(info_findings(&info)),
        Err(error) => findings.push(unreachable(socket, &error)),
    }
    findings
}

fn unreachable(socket: &Path, error: &ClientError) -> Finding {
    let why = match error {
        ClientError::Connect { source, .. } => source.to_string(),
        ClientError::Broken { .. }
        | ClientError::TimedOut { .. }
        | ClientError::NotHttp { .. }
        | ClientError::NotJson(_)
        | ClientError::Refused { .. } => error.to_string(),
    };
    Finding::fail(
        "engine",
        format!("no Docker Engine at {}: {why}", socket.display()),
        "start Docker (systemctl start docker), run as root or in the group docker, or set \
         docker_host",
    )
}

fn version_finding(version: &Version) -> Finding {
    let found = format!("Docker {} (API {})", version.version, version.api_version);
    let api = version.api_version.split_once('.');
    let api = api.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if api.is_some_and(|api: (u32, u32)| api >= API_VERSION_MIN) {
        Finding::ok("engine", found)
    } else {
        Finding::fail("engine", found, "install Docker 20.10 or newer")
    }
}

fn info_findings(info: &Info) -> Vec<Finding> {
    let driver = format!("{} in {}", info.driver, info.docker_root_dir);
    let storage = match info.driver.as_str() {
        "overlay2" | "overlayfs" | "btrfs" | "zfs" | "fuse-overlayfs" => {
            Finding::ok("storage driver", driver)
        }
        "vfs" => Finding::warn(
            "storage driver",
            driver,
            "vfs copies whole images for each container: use overlay2",
        ),
        _ => Finding::warn("storage driver", driver, "overlay2 is what is tested: use it"),
    };
    let found = format!("version {}, driver {}", info.cgroup_version, info.cgroup_driver);
    let missing: Vec<&str> =
        [(info.memory_limit, "memory"), (info.cpu_cfs_quota, "CPU quota"), (info.cpuset, "cpuset")]
            .into_iter()
            .filter_map(|(there, name)| (!there).then_some(name))
            .collect();
    let cgroups = if missing.is_empty() {
        Finding::ok("cgroups", found)
    } else {
        Finding::fail(
            "cgroups",
            format!("{found}; without {}", missing.join(", ")),
            "tasks' limits would have no effect: enable these controllers in the kernel",
        )
    };
    let mut findings = vec![storage, cgroups];
    let warnings = info.warnings.iter().flatten();
    let warnings = warnings.map(|warning| warning.trim_start_matches("WARNING: ").trim());
    // Swap accounting is off on many machines and no limit of ours needs it.
    let warnings =
        warnings.filter(|warning| !warning.contains("swap") && !warning.contains("blkio"));
    findings.extend(warnings.map(|warning| Finding::warn("engine", warning, "see `docker info`")));
    findings
}

#[cfg(test)]
mod test {
    use super::super::Grade;
    use super::*;

    fn info(driver: &str) -> Info {
        Info {
            driver: driver.into(),
            memory_limit: true,
            cpu_cfs_quota: true,
            cpuset: true,
            ..Info::default()
        }
    }

    #[test]
    fn engine_that_is_too_old_or_unknown_fails() {
        let version = |api: &str| Version { version: "1".into(), api_version: api.into() };
        assert_eq!(version_finding(&version("1.41")).grade, Grade::Ok);
        assert_eq!(version_finding(&version("2.0")).grade, Grade::Ok);
        assert_eq!(version_finding(&version("1.40")).grade, Grade::Fail);
        assert_eq!(version_finding(&version("")).grade, Grade::Fail);
    }

    #[test]
    fn driver_that_copies_images_is_a_warning() {
        assert_eq!(info_findings(&info("overlay2"))[0].grade, Grade::Ok);
        assert_eq!(info_findings(&info("vfs"))[0].grade, Grade::Warn);
    }

    #[test]
    fn limits_that_would_not_work_fail_by_name() {
        let found = info_findings(&Info { memory_limit: false, ..info("overlay2") });
        assert_eq!(found[1].grade, Grade::Fail);
        assert!(found[1].found.ends_with("without memory"));
    }

    #[test]
    fn engine_that_is_not_there_fails_with_a_remedy() {
        let found = findings("/nonexistent/docker.sock".as_ref());
        assert_eq!(found[0].grade, Grade::Fail);
        assert!(found[0].remedy.is_some());
    }
}
