//! Random specs that their schema allows, and random changes of them. All follows from the schema: a field that is new there is tried without a change here.

use crate::rules;
use defib_world::chance::Dice;
use defib_world::clock::BEGINNING;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Texts that mean something somewhere. Where the schema allows one, it is tried, whether it means something there or not.
const WORDS: [&str; 24] = [
    // Names of policies; the last of them is never there.
    "default",
    "batch",
    "spare",
    "missing",
    // Shares.
    "1%",
    "20%",
    "50%",
    "100%",
    // Schedules: now, soon, seldom, never, and none at all.
    "* * * * *",
    "2 8 * * *",
    "*/5 * * * *",
    "30 2 * * SUN",
    "59 23 31 12 *",
    "0 0 29 2 *",
    "0 0 30 2 *",
    "0 0 31 4,6,9,11 *",
    "0 0 13 * FRI",
    "tomorrow, or so",
    "0 3 * * 6 7 8",
    // Zones.
    "UTC",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "Nowhere/Never",
    "two words",
];

/// The definition of a kind. They are made once: that takes as long as some minutes of a world.
pub fn definition(plural: &str) -> &'static Value {
    static ALL: LazyLock<Vec<Value>> = LazyLock::new(|| defib_api::crds().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect());
    ALL.iter().find(|crd| crd["spec"]["names"]["plural"] == plural).unwrap()
}

/// The schema of a kind's spec, as its definition has it.
pub fn schema_of(plural: &str) -> &'static Value {
    &definition(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
}

/// Makes values at a moment.
pub struct Generator<'a> {
    pub dice: &'a mut Dice,
    /// Seconds since the world began.
    pub now: i64,
}

impl Generator<'_> {
    /// A whole value.
    pub fn value(&mut self, schema: &Value) -> Value {
        // Most of what is made by the bounds alone fits the rules too.
        for _ in 0..1000 {
            let value = self.by_bounds(schema);
            if rules::of(schema).next().is_none() || rules::hold(schema, &value) {
                return value;
            }
        }
        panic!("nothing fits the rules of {schema}");
    }

    fn by_bounds(&mut self, schema: &Value) -> Value {
        if schema["x-kubernetes-int-or-string"] == true {
            return if self.dice.percent(50) {
                self.number(schema)
            } else {
                self.text(schema)
            };
        }
        if let Some(values) = schema["enum"].as_array() {
            return self.dice.pick(values);
        }
        match schema["type"].as_str().unwrap_or_default() {
            "object" => self.object(schema),
            "array" => self.list(schema),
            "integer" => self.number(schema),
            "boolean" => json!(self.dice.percent(50)),
            "string" if schema["format"] == "date-time" => self.time(),
            "string" => self.text(schema),
            other => panic!("the type {other:?} is not known here: {schema}"),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
        let share = self.dice.pick(&[0, 20, 50, 80, 100]);
        let mut object = Map::new();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if required(name) || self.dice.percent(share) {
                object.insert(name.clone(), self.value(field));
            }
        }
        if schema["additionalProperties"].is_object() {
            for key in 0..self.dice.between(0, 3) {
                object.insert(format!("key-{key}"), self.value(&schema["additionalProperties"]));
            }
        }
        Value::Object(object)
    }

    fn list(&mut self, schema: &Value) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(0);
        let most = schema["maxItems"].as_u64().unwrap_or(least + 3);
        let wanted = self.dice.pick(&[least, (least + 1).min(most), most]) as usize;
        let keys = schema["x-kubernetes-list-map-keys"].as_array().cloned().unwrap_or_default();
        let set = schema["x-kubernetes-list-type"] == "set";
        let mut items: Vec<Value> = Vec::new();
        // A key has few values sometimes: then the list stays shorter.
        for _ in 0..wanted * 20 {
            if items.len() == wanted {
                break;
            }
            let item = self.value(&schema["items"]);
            let same_keys = |other: &Value| !keys.is_empty() && keys.iter().filter_map(Value::as_str).all(|key| other[key] == item[key]);
            if !items.iter().any(|other| same_keys(other) || (set && *other == item)) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    fn number(&mut self, schema: &Value) -> Value {
        let bound = |name: &str, or: i64| schema[name].as_f64().map_or(or, |n| n as i64);
        let (low, high) = (bound("minimum", 0), bound("maximum", i64::from(i32::MAX)));
        let small = low + self.dice.between(0, 60) as i64;
        // Each order of magnitude as often as the others.
        let any = low + ((high - low) >> self.dice.between(0, 31));
        json!(self.dice.pick(&[low, low + 1, small, small, any, high - 1, high]).clamp(low, high))
    }

    fn text(&mut self, schema: &Value) -> Value {
        let least = schema["minLength"].as_u64().unwrap_or(0) as usize;
        let most = schema["maxLength"].as_u64().unwrap_or(64) as usize;
        assert!(schema["pattern"].is_null(), "patterns are not known here: {schema}");
        let fits = |text: &&str| (least..=most).contains(&text.chars().count());
        let words: Vec<&str> = WORDS.into_iter().filter(fits).collect();
        match self.dice.between(0, 9) {
            // Lengths are counted in characters, not in bytes.
            0 => json!("\u{20ac}".repeat(most)),
            1 => json!("x".repeat(least.max(1))),
            _ if words.is_empty() => json!("x".repeat(least)),
            _ => json!(self.dice.pick(&words)),
        }
    }

    fn time(&mut self) -> Value {
        let (soon, ago) = (self.dice.between(1, 90) as i64, self.dice.between(0, 3600) as i64);
        // Such times pass while the world lasts.
        let now = BEGINNING.as_second() + self.now;
        let near = [now + soon, now - ago, now + 400 * 86_400];
        let near = near.map(|at| jiff::Timestamp::from_second(at).unwrap().to_string());
        let [soon, ago, far] = &near;
        json!(self.dice.pick(&[
            soon.as_str(),
            soon.as_str(),
            ago.as_str(),
            far.as_str(),
            "1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "2027-01-15T10:03:00.123456789+02:00",
        ]))
    }

    /// A change of an object: a merge patch. What it makes of the object fits the rules.
    pub fn change(&mut self, schema: &Value, current: &Value) -> Value {
        for _ in 0..1000 {
            let patch = self.patch(schema, current);
            let mut changed = current.clone();
            defib_world::declared::json_merge(&mut changed, &patch);
            if rules::hold(schema, &changed) {
                return patch;
            }
        }
        panic!("no change of {current} fits the rules");
    }

    fn patch(&mut self, schema: &Value, current: &Value) -> Value {
        let free = |field: &&(&String, &Value)| !rules::of(field.1).any(|rule| rule == rules::IMMUTABLE);
        let fields: Vec<_> = schema["properties"].as_object().into_iter().flatten().collect();
        let fields: Vec<_> = fields.iter().filter(free).copied().collect();
        let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name));
        // Mostly little, now and then all of it.
        let share = self.dice.pick(&[0, 0, 0, 25, 100]);
        let chosen = self.dice.between(0, fields.len() as u64 - 1) as usize;
        let mut patch = Map::new();
        for (n, (name, field)) in fields.into_iter().enumerate() {
            if n != chosen && !self.dice.percent(share) {
                continue;
            }
            let present = current.get(name);
            let new = match present {
                Some(_) if !required(name) && self.dice.percent(30) => Value::Null,
                Some(now) if field["properties"].is_object() && self.dice.percent(70) => self.patch(field, now),
                _ => self.value(field),
            };
            patch.insert(name.clone(), new);
        }
        Value::Object(patch)
    }
}

/// The merge patch that makes of one object the other.
pub fn difference(from: &Value, to: &Value) -> Value {
    let (Some(old), Some(new)) = (from.as_object(), to.as_object()) else {
        return to.clone();
    };
    let gone = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| (name.clone(), Value::Null));
    let changed = new.iter().filter(|(name, field)| old.get(*name) != Some(field));
    let changed = changed.map(|(name, field)| {
        (
            name.clone(),
            old.get(name).map_or_else(|| field.clone(), |now| difference(now, field)),
        )
    });
    gone.chain(changed).collect()
}
