//! `/nodes/{node}/tasks`.

use serde_json::{Map, Value, json};

use super::Call;
use super::method::{Method, Verb};
use super::schema::{Kind, NODE, Parameter};
use crate::http::{ApiError, Data};
use crate::task::{Task, TaskSource, Upid};

const UPID: Parameter = Parameter::required("upid", Kind::Text);
const COUNT: Kind = Kind::Integer(0, i64::MAX);
const EPOCH: Kind = Kind::Integer(i64::MIN, i64::MAX);

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Get, "/nodes/{node}/tasks", |call| {
        Box::pin(async move { Ok::<_, ApiError>(list(&call)) })
    })
    .proxied()
    .takes(&[
        NODE,
        Parameter::optional("start", COUNT),
        Parameter::optional("limit", COUNT),
        Parameter::optional("userfilter", Kind::Text),
        Parameter::optional("typefilter", Kind::Text),
        Parameter::optional("vmid", Kind::Integer(100, 999_999_999)),
        Parameter::optional("errors", Kind::Boolean),
        Parameter::optional("source", Kind::OneOf(&["archive", "active", "all"])),
        Parameter::optional("since", EPOCH),
        Parameter::optional("until", EPOCH),
    ]),
    Method::new(Verb::Get, "/nodes/{node}/tasks/{upid}/status", |call| {
        Box::pin(async move { task(&call, "Sys.Audit", status) })
    })
    .proxied()
    .takes(&[NODE, UPID]),
    Method::new(Verb::Get, "/nodes/{node}/tasks/{upid}/log", |call| {
        Box::pin(async move {
            let (start, limit) = (page(&call, "start", 0), page(&call, "limit", 50));
            task(&call, "Sys.Audit", |task| log(task, start, limit))
        })
    })
    .proxied()
    .takes(&[NODE, UPID, Parameter::optional("start", COUNT), Parameter::optional("limit", COUNT)]),
    Method::new(Verb::Delete, "/nodes/{node}/tasks/{upid}", |call| {
        Box::pin(async move {
            let upid = task(&call, "Sys.Modify", |task| task.upid.clone())?;
            call.cluster.tasks().interrupt(&upid);
            Ok(Value::Null.into())
        })
    })
    .proxied()
    .takes(&[NODE, UPID]),
];

/// Finds the task of the path. Its owner may see it, and so may who has the privilege on the node.
fn task<R>(call: &Call, privilege: &str, look: impl FnOnce(&Task) -> R) -> Result<R, ApiError> {
    let text = call.text("upid").unwrap_or_default();
    let upid: Upid = text
        .parse()
        .map_err(|_| ApiError::parameter("upid", "unable to parse worker upid"))?;
    // The files of a task are on its own node only.
    let known = upid.node == call.node && call.cluster.tasks().get(&upid).is_some();
    if !known {
        return Err(ApiError::parameter("upid", "no such task"));
    }
    if !is_own(call, &upid) {
        call.require(&format!("/nodes/{}", call.node), &[privilege])?;
    }
    let tasks = call.cluster.tasks();
    tasks
        .get(&upid)
        .map(look)
        .ok_or_else(|| ApiError::parameter("upid", "no such task"))
}

/// A token sees its own tasks only.
fn is_own(call: &Call, upid: &Upid) -> bool {
    upid.user == call.identity.id()
}

fn page(call: &Call, name: &str, default: usize) -> usize {
    call.number(name)
        .map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX))
}

/// The fields every view of a task has. A token shows as user and token id.
fn fields(task: &Task) -> Map<String, Value> {
    let upid = &task.upid;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    set("upid", upid.to_string().into());
    set("node", upid.node.clone().into());
    set("pid", upid.pid.into());
    set("pstart", upid.pstart.into());
    set("starttime", upid.starttime.into());
    set("type", upid.kind.clone().into());
    set("id", upid.id.clone().into());
    match upid.user.split_once('!') {
        Some((user, token)) => {
            set("user", user.into());
            set("tokenid", token.into());
        }
        None => {
            set("user", upid.user.clone().into());
        }
    }
    row
}

fn status(task: &Task) -> Data {
    let mut row = fields(task);
    let running = task.is_running();
    row.insert("status".to_owned(), if running { "running" } else { "stopped" }.into());
    if let Some(exit) = &task.record.exitstatus {
        row.insert("exitstatus".to_owned(), exit.clone().into());
    }
    Value::Object(row).into()
}

fn log(task: &Task, start: usize, limit: usize) -> Data {
    let lines = &task.record.log;
    let mut rows: Vec<Value> = lines
        .iter()
        .enumerate()
        .skip(start)
        .take(limit)
        .map(|(index, line)| json!({ "n": index + 1, "t": line }))
        .collect();
    if lines.is_empty() {
        rows.push(json!({ "n": 1, "t": "no content" }));
    }
    Data::list(rows, lines.len().max(1))
}

fn list(call: &Call) -> Data {
    let (start, limit) = (page(call, "start", 0), page(call, "limit", 50));
    let source = call
        .text("source")
        .and_then(|source| source.parse().ok())
        .unwrap_or(TaskSource::Archive);
    let auditor = call.may(&call.cluster.state(), &format!("/nodes/{}", call.node), &["Sys.Audit"]);
    let vmid = call.number("vmid").map(|vmid| vmid.to_string());
    let user = call.text("userfilter").map(str::to_lowercase);
    let tasks = call.cluster.tasks();
    let wanted = |task: &&Task| {
        let upid = &task.upid;
        (auditor || is_own(call, upid))
            && user.as_deref().is_none_or(|user| upid.user.to_lowercase().contains(user))
            && call.text("typefilter").is_none_or(|kind| kind == upid.kind)
            && vmid.as_deref().is_none_or(|vmid| vmid == upid.id)
            && call.number("since").is_none_or(|since| upid.starttime >= since)
            && call.number("until").is_none_or(|until| upid.starttime <= until)
            && !(call.flag("errors") && task.record.exitstatus.as_deref().is_none_or(is_success))
    };
    let found: Vec<&Task> = tasks.of_node(&call.node, source).filter(wanted).collect();
    let rows = found.iter().skip(start).take(limit).map(|task| {
        let mut row = fields(task);
        row.insert(
            "status".to_owned(),
            task.record.exitstatus.clone().unwrap_or_else(|| "RUNNING".to_owned()).into(),
        );
        if let Some(end) = task.record.endtime {
            row.insert("endtime".to_owned(), end.into());
        }
        Value::Object(row)
    });
    Data::list(rows.collect(), found.len())
}

fn is_success(exit: &str) -> bool {
    exit == "OK" || exit.starts_with("WARNINGS: ")
}
