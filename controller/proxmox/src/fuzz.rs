//! A door for the fuzz targets; no part of what this crate offers. Everything that is read of an answer of Proxmox, without a network.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde::de::DeserializeOwned;

use crate::answer::{Answer, Asked};
use crate::cluster::{ClusterHaStatus, ClusterRow, ClusterStatus, HaRow, Node, NodeRow, Permissions, Version};
use crate::config::ApiToken;
use crate::connection::verdict;
use crate::error::Error;
use crate::loose::Loose;
use crate::task::{LogRow, TaskEntry, TaskRow, TaskStatus, TaskStatusBody};
use crate::upid::Upid;
use crate::vm::{ResourceRow, VmResource, VmStatus, VmStatusBody};
use crate::vm_config::{VmConfig, VmConfigBody};

/// One answer, read as the answer to each request there is.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "named after the methods of the client")]
pub struct Readings {
    pub post: Result<Upid, Error>,
    pub post_cut_short: Result<Upid, Error>,
    pub version: Result<Version, Error>,
    pub resources: Result<Vec<VmResource>, Error>,
    pub nodes: Result<Vec<Node>, Error>,
    pub cluster_status: Result<ClusterStatus, Error>,
    pub ha_status: Result<ClusterHaStatus, Error>,
    pub permissions: Result<Permissions, Error>,
    pub vm_status: Result<VmStatus, Error>,
    pub vm_config: Result<VmConfig, Error>,
    pub task_status: Result<Option<TaskStatus>, Error>,
    pub tasks: Result<Vec<TaskEntry>, Error>,
    pub task_log: Result<Vec<String>, Error>,
}

/// Reads an answer. `None` when hyper would not have passed such a head on.
pub fn read(status: u16, reason: &[u8], date: &[u8], body: &[u8], token: &ApiToken) -> Option<Readings> {
    let status = StatusCode::from_u16(status).ok()?;
    let mut extensions = Extensions::new();
    extensions.insert(ReasonPhrase::try_from(reason).ok()?);
    let mut headers = HeaderMap::new();
    headers.insert(header::DATE, HeaderValue::from_bytes(date).ok()?);
    let answer = Answer::new("pve1:8006", status, &headers, &extensions, Bytes::copy_from_slice(body), token);
    let upid = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:".parse().ok()?;
    let asked = Asked {
        path: "/nodes/pve1/qemu/100",
        node: Some("pve1"),
        vmid: Some(100),
        upid: Some(&upid),
    };
    Some(Readings {
        post: verdict(&answer, true, asked),
        post_cut_short: verdict(&answer, false, asked),
        version: answer.data(asked),
        resources: rows(&answer, asked, ResourceRow::into_resource),
        nodes: rows(&answer, asked, NodeRow::into_node),
        cluster_status: answer.data::<Vec<ClusterRow>>(asked).map(ClusterStatus::from_rows),
        ha_status: answer.data::<Vec<HaRow>>(asked).map(ClusterHaStatus::from_rows),
        permissions: answer
            .data::<BTreeMap<String, BTreeMap<String, Loose>>>(asked)
            .map(Permissions::from_body),
        vm_status: answer.data(asked).map(VmStatusBody::into_status),
        vm_config: answer.data(asked).map(VmConfigBody::into_config),
        task_status: answer.data(asked).map(TaskStatusBody::into_status),
        tasks: rows(&answer, asked, TaskRow::into_entry),
        task_log: rows(&answer, asked, |row: LogRow| Some(row.t)),
    })
}

fn rows<R: DeserializeOwned, T>(answer: &Answer, asked: Asked<'_>, into: impl Fn(R) -> Option<T>) -> Result<Vec<T>, Error> {
    answer.data::<Vec<R>>(asked).map(|rows| rows.into_iter().filter_map(into).collect())
}
