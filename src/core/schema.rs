//! The schema of a chain: a JSON Schema (draft 2020-12) whose cost is known before it is used.
//!
//! A schema is a program that a stranger sends, and a small one can take longer than anybody waits, or more stack than a
//! thread has: `a0: {allOf: [a1, a1]}`, `a1: {allOf: [a2, a2]}` and so on doubles its work with each line. So its
//! subschemas are laid out as a graph first, and for each depth of a value two numbers are computed that no value of that
//! depth exceeds: the steps along one way from the value's root to a leaf, and the subschemas inside of each other there.
//! Patterns run in linear time, and references stay inside of the document, so that nothing is ever fetched.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use jsonschema::{Draft, PatternOptions, Registry, Uri, uri};
use serde_json::{Map, Value};

use super::{json, rules::Fault};
use crate::limits;

/// The only `$schema` that a schema may name.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A compiled schema.
#[derive(Clone)]
pub(super) struct Schema {
    source: Value,
    validator: Arc<jsonschema::Validator>,
    /// By the depth of the value: 0 for a scalar.
    costs: Arc<[Cost]>,
}

/// What a schema costs at most for values of one depth.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Subschemas and their members that are met along one way from the root to a leaf.
    steps: u64,
    /// The same to find what `unevaluatedProperties` and `unevaluatedItems` have left.
    survey: u64,
    /// Subschemas inside of each other, which is how deep the validator recurses.
    nesting: u64,
}

impl Schema {
    /// At most so many faults of one value are told.
    const FAULTS: usize = 20;

    /// Takes a schema whose cost can be bounded.
    ///
    /// # Errors
    /// It is no schema of draft 2020-12, refers to what it does not hold, refers back to itself without going into the
    /// value, or costs too much.
    pub(super) fn compile(source: Value) -> Result<Self, Fault> {
        let costs = costs(&source).map_err(|detail| Fault::of("schema", detail))?;
        let patterns = PatternOptions::regex().size_limit(limits::PATTERN_BYTES).dfa_size_limit(limits::PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .build(&source)
            .map_err(|error| Fault {
                pointer: format!("/schema{}", error.instance_path()),
                detail: format!("not a usable JSON Schema of draft 2020-12: {error}"),
            })?;
        Ok(Schema { source, validator: Arc::new(validator), costs: costs.into() })
    }

    /// As it was given.
    pub(super) fn source(&self) -> &Value {
        &self.source
    }

    /// Checks a value that has so many bytes in canonical form.
    ///
    /// # Errors
    /// Where it breaks the schema, or that it would take too long to know.
    pub(super) fn check(&self, value: &Value, bytes: usize) -> Result<(), Vec<Fault>> {
        let whole = |detail: &str| Err(vec![Fault { pointer: String::new(), detail: detail.into() }]);
        let Some(cost) = self.costs.get(depth(value)).filter(|cost| cost.nesting <= limits::SCHEMA_NESTING) else {
            return whole("it is nested too deep for the chain's schema: nest less");
        };
        let affordable = |steps: u64| steps.saturating_mul(bytes as u64) <= limits::SCHEMA_WORK;
        if !affordable(cost.steps) {
            return whole("it is too large and too deep to be checked against the chain's schema: split it or nest less");
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        // To tell its faults, each level looks once more at all that is below.
        if !affordable(cost.steps.saturating_mul(cost.nesting)) {
            return whole("it breaks the chain's schema; it is too large to tell where");
        }
        let fault = |error: jsonschema::ValidationError<'_>| Fault {
            pointer: error.instance_path().to_string(),
            detail: error.masked().to_string(),
        };
        Err(self.validator.iter_errors(value).take(Self::FAULTS).map(fault).collect())
    }
}

/// Arrays and objects inside of each other.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The cost of a schema for each depth that the JSON gate lets pass.
fn costs(source: &Value) -> Result<Vec<Cost>, String> {
    let root = source.get("$id").and_then(Value::as_str).unwrap_or_default();
    let base = uri::from_str(root.trim_end_matches('#')).map_err(|error| error.to_string())?;
    let registry = Registry::new()
        .draft(Draft::Draft202012)
        .retrieve_known_draft_meta_schemas(false)
        .add(base.as_str(), source)
        .and_then(|builder| builder.prepare())
        .map_err(|error| error.to_string())?;
    let graph = Graph::of(source, base, &registry)?;
    let order = graph.innermost_first()?;

    let mut shallower = vec![Cost::default(); graph.nodes.len()];
    let mut costs = Vec::with_capacity(json::MAX_DEPTH + 1);
    for depth in 0..=json::MAX_DEPTH {
        let mut level = vec![Cost::default(); graph.nodes.len()];
        for &number in &order {
            level[number] = graph.nodes[number].cost(&level, &shallower);
        }
        if depth == 0 {
            let unfolded = level.iter().fold(0u64, |sum, cost| sum.saturating_add(cost.survey));
            let nesting = level.iter().map(|cost| cost.nesting).max().unwrap_or(0);
            if unfolded > limits::SCHEMA_UNFOLDED || nesting > limits::SCHEMA_NESTING_IN_PLACE {
                return Err("it unfolds to too many subschemas for one value: refer less often, nest less".into());
            }
        }
        costs.push(level.first().copied().unwrap_or_default());
        shallower = level;
    }
    Ok(costs)
}

/// A subschema. Each group holds alternatives, by number: at most one of them meets a given value.
#[derive(Default)]
struct Node {
    /// The members of its own keywords, which are walked one by one.
    own: u64,
    /// Whether it asks what the subschemas in place have left.
    surveys: bool,
    /// Subschemas that meet the value itself.
    in_place: Vec<Vec<usize>>,
    /// Subschemas that meet an element or a member of the value.
    inside: Vec<Vec<usize>>,
}

impl Node {
    fn cost(&self, level: &[Cost], shallower: &[Cost]) -> Cost {
        let most = |group: &Vec<usize>, of: &dyn Fn(usize) -> u64| group.iter().map(|&number| of(number)).max().unwrap_or(0);
        let sum = |groups: &[Vec<usize>], of: &dyn Fn(usize) -> u64| {
            groups.iter().fold(0u64, |sum, group| sum.saturating_add(most(group, of)))
        };
        let once = self.own
            .saturating_add(sum(&self.in_place, &|number| level[number].steps))
            .saturating_add(sum(&self.inside, &|number| shallower[number].steps));
        let survey = once.saturating_add(sum(&self.in_place, &|number| level[number].survey));
        let in_place = self.in_place.iter().map(|group| most(group, &|number| level[number].nesting));
        let inside = self.inside.iter().map(|group| most(group, &|number| shallower[number].nesting));
        Cost {
            steps: if self.surveys { once.saturating_add(survey) } else { once },
            survey,
            nesting: 1 + in_place.chain(inside).max().unwrap_or(0),
        }
    }
}

/// The subschemas of a document and how they lead to each other.
struct Graph<'a> {
    registry: &'a Registry<'a>,
    nodes: Vec<Node>,
    /// A subschema is known by where it stands in memory.
    numbers: HashMap<*const Value, usize>,
    /// Subschemas whose keywords were not read yet, each with its base URI.
    unread: VecDeque<(&'a Map<String, Value>, Arc<Uri<String>>)>,
    /// References: the node, the node that it leads to at first, and the fragment.
    references: Vec<(usize, usize, &'a str)>,
    /// Nodes by their `$dynamicAnchor`.
    dynamic: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn of(source: &'a Value, base: Uri<String>, registry: &'a Registry<'a>) -> Result<Self, String> {
        let mut graph = Graph {
            registry,
            nodes: Vec::new(),
            numbers: HashMap::new(),
            unread: VecDeque::new(),
            references: Vec::new(),
            dynamic: HashMap::new(),
        };
        graph.number(source, Arc::new(base));
        let mut next = 0;
        while let Some((schema, base)) = graph.unread.pop_front() {
            graph.read(next, schema, &base)?;
            next += 1;
        }
        for (node, target, fragment) in std::mem::take(&mut graph.references) {
            // Which dynamic anchor of that name is meant depends on the way there.
            let others = graph.dynamic.get(fragment).cloned().unwrap_or_default();
            graph.nodes[node].in_place.push([vec![target], others].concat());
        }
        Ok(graph)
    }

    /// The number of a subschema; `None` for `true` and `false`, which cost nothing.
    fn number(&mut self, schema: &'a Value, base: Arc<Uri<String>>) -> Option<usize> {
        let fields = schema.as_object()?;
        Some(*self.numbers.entry(std::ptr::from_ref(schema)).or_insert_with(|| {
            self.unread.push_back((fields, base));
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        }))
    }

    /// The number of a subschema that stands in one with this base URI.
    fn number_within(&mut self, schema: &'a Value, base: &Arc<Uri<String>>) -> Result<Option<usize>, String> {
        let base = match schema.get("$id").and_then(Value::as_str) {
            Some(id) => self.registry.resolve_uri(&base.borrow(), id.trim_end_matches('#')).map_err(|error| error.to_string())?,
            None => base.clone(),
        };
        Ok(self.number(schema, base))
    }

    fn read(&mut self, node: usize, schema: &'a Map<String, Value>, base: &Arc<Uri<String>>) -> Result<(), String> {
        let mut exclusive = Vec::new();
        self.nodes[node].own = 1;
        for (keyword, value) in schema {
            let mut numbers = Vec::new();
            for subschema in subschemas(keyword, value) {
                numbers.extend(self.number_within(subschema, base)?);
            }
            let each = numbers.iter().map(|&number| vec![number]);
            let this = &mut self.nodes[node];
            match keyword.as_str() {
                "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" | "dependentSchemas" | "dependencies" => {
                    this.in_place.extend(each);
                }
                "properties" | "additionalProperties" | "prefixItems" | "items" | "additionalItems" => {
                    exclusive.extend(numbers);
                }
                "patternProperties" | "contains" | "propertyNames" => this.inside.extend(each),
                "unevaluatedProperties" | "unevaluatedItems" => {
                    this.surveys = true;
                    this.inside.extend(each);
                }
                "$defs" | "definitions" | "default" | "examples" | "const" => continue,
                "$schema" if value.as_str().is_some_and(|draft| draft.trim_end_matches('#') != DRAFT) => {
                    return Err(format!("$schema is {value}, but schemas are of draft 2020-12: {DRAFT}"));
                }
                "$dynamicAnchor" => self.dynamic.entry(value.as_str().unwrap_or_default()).or_default().push(node),
                "$ref" | "$dynamicRef" => self.refer(node, value.as_str().unwrap_or_default(), base)?,
                _ => {}
            }
            self.nodes[node].own += members(value);
        }
        self.nodes[node].inside.push(exclusive);
        Ok(())
    }

    fn refer(&mut self, node: usize, reference: &'a str, base: &Arc<Uri<String>>) -> Result<(), String> {
        let resolver = self.registry.resolver((**base).clone());
        let target = resolver.lookup(reference).map_err(|error| {
            format!("the reference {reference:?} leads to nothing in the schema, and none is followed beyond it: {error}")
        })?;
        if let Some(target) = self.number(target.contents(), target.resolver().base_uri()) {
            let fragment = reference.rsplit_once('#').map_or("", |(_, fragment)| fragment);
            self.references.push((node, target, fragment));
        }
        Ok(())
    }

    /// All nodes, each behind those that it has in place.
    fn innermost_first(&self) -> Result<Vec<usize>, String> {
        let mut holders = vec![0u32; self.nodes.len()];
        for &number in self.nodes.iter().flat_map(|node| node.in_place.iter().flatten()) {
            holders[number] += 1;
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(|&number| holders[number] == 0).collect();
        let mut next = 0;
        while let Some(&number) = order.get(next) {
            next += 1;
            for &held in self.nodes[number].in_place.iter().flatten() {
                holders[held] -= 1;
                if holders[held] == 0 {
                    order.push(held);
                }
            }
        }
        if order.len() < self.nodes.len() {
            // Draft 2020-12, section 9.4.1 of the core: its behaviour is undefined.
            return Err("a reference leads back to itself without going into the value: it decides nothing".into());
        }
        order.reverse();
        Ok(order)
    }
}

/// The subschemas that a keyword's value holds.
fn subschemas<'a>(keyword: &str, value: &'a Value) -> Vec<&'a Value> {
    match (keyword, value) {
        ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(elements)) => elements.iter().collect(),
        (
            "properties" | "patternProperties" | "dependentSchemas" | "dependencies" | "$defs" | "definitions",
            Value::Object(members),
        ) => members.values().collect(),
        (
            "not" | "if" | "then" | "else" | "items" | "additionalItems" | "contains" | "additionalProperties"
            | "propertyNames" | "unevaluatedItems" | "unevaluatedProperties" | "contentSchema",
            value,
        ) => vec![value],
        _ => Vec::new(),
    }
}

/// How many members a keyword's value has, those of the arrays in it included: a list of names, of values, of subschemas.
fn members(value: &Value) -> u64 {
    let length = |value: &Value| value.as_array().map_or(0, Vec::len);
    let members = match value {
        Value::Array(elements) => elements.len() + elements.iter().map(length).sum::<usize>(),
        Value::Object(members) => members.len() + members.values().map(length).sum::<usize>(),
        _ => 0,
    };
    members as u64
}
