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

/// The work that one check may be: [steps](Cost::steps) times bytes. The slowest keyword takes 12 ns for one, most 1 ns.
const WORK: u64 = 500_000_000;

/// The same for a check that tells more than its first fault.
const TELLING: u64 = 250_000;

/// Subschemas inside of each other that a check may meet: each takes up to 300 bytes of a stack of 2 MiB.
const NESTING: u64 = 2_000;

/// The same for one value without what is in it, which the compiler walks at once.
const NESTING_IN_PLACE: u64 = 100;

/// Subschemas that all references unfold to, for one value without what is in it.
const UNFOLDED: u64 = 1_000_000;

/// Bytes of one compiled pattern, which bounds what a byte of text costs: 3 us at worst.
const PATTERN_BYTES: usize = 64 << 10;

/// What a pattern counts, in steps.
const PATTERN_STEPS: u64 = 500;

/// Patterns of one schema, which takes up to a millisecond each to compile.
const PATTERNS: u64 = 1_000;

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
        let bytes = json::canonical(&source).len();
        if bytes > limits::RULES_BYTES {
            let detail = format!("it has {bytes} bytes, at most {} are allowed", limits::RULES_BYTES);
            return Err(Fault::of("schema", detail));
        }
        // It stands in the bang's data, one level down.
        if depth(&source) >= limits::DATA_DEPTH {
            let detail = format!("it is nested more than {} deep", limits::DATA_DEPTH - 1);
            return Err(Fault::of("schema", detail));
        }
        let costs = costs(&source).map_err(|detail| Fault::of("schema", detail))?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .build(&source)
            .map_err(|error| Fault {
                pointer: format!("/schema{}", error.instance_path()),
                detail: format!(
                    "not a usable JSON Schema of draft 2020-12, or a pattern with look-around, back-references or more than \
                     {PATTERN_BYTES} bytes when compiled: {error}"
                ),
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
        let Some(cost) = self.costs.get(depth(value)).filter(|cost| cost.nesting <= NESTING) else {
            return whole("it is nested too deep for the chain's schema: nest less");
        };
        let affordable = |steps: u64| steps.saturating_mul(bytes as u64) <= WORK;
        if !affordable(cost.steps) {
            return whole(
                "it is too large and too deep to be checked against the chain's schema: split it or nest less",
            );
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let fault = |error: jsonschema::ValidationError<'_>| Fault {
            pointer: error.instance_path().to_string(),
            detail: error.masked().to_string(),
        };
        // The library makes all faults at once, and each member of a large value can have one for each step.
        if cost.steps.saturating_mul(bytes as u64) <= TELLING {
            return Err(self.validator.iter_errors(value).take(Self::FAULTS).map(fault).collect());
        }
        // To tell the first, each level looks once more at all that is below.
        if affordable(cost.steps.saturating_mul(cost.nesting)) {
            return self.validator.validate(value).map_err(|error| vec![fault(error)]);
        }
        whole("it breaks the chain's schema; it is too large to tell where")
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
        .map_err(|error| format!("no reference is followed beyond the schema: {error}"))?;
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
            let surveys = level.iter().zip(&graph.nodes).filter(|(_, node)| node.surveys).map(|(cost, _)| cost.survey);
            let unfolded = surveys.fold(level.first().map_or(0, |cost| cost.steps), u64::saturating_add);
            let nesting = level.iter().map(|cost| cost.nesting).max().unwrap_or(0);
            if unfolded > UNFOLDED || nesting > NESTING_IN_PLACE {
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
    /// Whether it asks what the subschemas in place have left over.
    surveys: bool,
    /// Subschemas that meet the value itself.
    in_place: Vec<Vec<usize>>,
    /// Subschemas that meet an element or a member of the value.
    inside: Vec<Vec<usize>>,
    /// Those that meet what the subschemas in place have left over.
    rest: Vec<Vec<usize>>,
}

impl Node {
    fn cost(&self, level: &[Cost], shallower: &[Cost]) -> Cost {
        let total = |groups: &[Vec<usize>], costs: &[Cost], part: fn(&Cost) -> u64| {
            let most = groups.iter().map(|group| group.iter().map(|&number| part(&costs[number])).max().unwrap_or(0));
            most.fold(0, u64::saturating_add)
        };
        let deepest = |groups: &[Vec<usize>], costs: &[Cost]| {
            groups.iter().flatten().map(|&number| costs[number].nesting).max().unwrap_or(0)
        };
        let rest = total(&self.rest, shallower, |cost| cost.steps);
        let in_place = total(&self.in_place, level, |cost| cost.steps);
        let inside = total(&self.inside, shallower, |cost| cost.steps);
        let surveyed = total(&self.in_place, level, |cost| cost.steps.saturating_add(cost.survey));
        let survey = self.own.saturating_add(rest).saturating_add(surveyed);
        let once = [in_place, inside, rest].into_iter().fold(self.own, u64::saturating_add);
        let nesting = [(&self.in_place, level), (&self.inside, shallower), (&self.rest, shallower)];
        Cost {
            steps: if self.surveys { once.saturating_add(survey) } else { once },
            survey,
            nesting: 1 + nesting.map(|(groups, costs)| deepest(groups, costs)).into_iter().max().unwrap_or(0),
        }
    }
}

/// The URI against which the references in a subschema are resolved.
type Base = Arc<Uri<String>>;

/// The subschemas of a document and how they lead to each other.
struct Graph<'a> {
    registry: &'a Registry<'a>,
    nodes: Vec<Node>,
    /// A subschema is known by where it stands in memory.
    numbers: HashMap<*const Value, usize>,
    /// Subschemas whose keywords were not read yet, each with its base URI.
    unread: VecDeque<(&'a Map<String, Value>, Base)>,
    /// References: the node, the node that it leads to at first, and the fragment.
    references: Vec<(usize, usize, &'a str)>,
    /// How many regular expressions there are.
    patterns: u64,
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
            patterns: 0,
            dynamic: HashMap::new(),
        };
        graph.number(source, Arc::new(base));
        let mut next = 0;
        while let Some((schema, base)) = graph.unread.pop_front() {
            graph.read(next, schema, &base)?;
            next += 1;
        }
        if graph.patterns > PATTERNS {
            return Err(format!("it has {} patterns, at most {PATTERNS} are allowed", graph.patterns));
        }
        for (node, target, fragment) in std::mem::take(&mut graph.references) {
            // Which dynamic anchor of that name is meant depends on the way there.
            let others = graph.dynamic.get(fragment).cloned().unwrap_or_default();
            graph.nodes[node].in_place.push([vec![target], others].concat());
        }
        Ok(graph)
    }

    /// The number of a subschema; `None` for `true` and `false`, which cost nothing.
    fn number(&mut self, schema: &'a Value, base: Base) -> Option<usize> {
        let fields = schema.as_object()?;
        Some(*self.numbers.entry(std::ptr::from_ref(schema)).or_insert_with(|| {
            self.unread.push_back((fields, base));
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        }))
    }

    /// The number of a subschema that stands in one with this base URI.
    fn number_within(&mut self, schema: &'a Value, base: &Base) -> Result<Option<usize>, String> {
        let base = match schema.get("$id").and_then(Value::as_str) {
            Some(id) => self
                .registry
                .resolve_uri(&base.borrow(), id.trim_end_matches('#'))
                .map_err(|error| error.to_string())?,
            None => base.clone(),
        };
        Ok(self.number(schema, base))
    }

    fn read(&mut self, node: usize, schema: &'a Map<String, Value>, base: &Base) -> Result<(), String> {
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
                    continue;
                }
                "patternProperties" | "contains" | "propertyNames" => this.inside.extend(each),
                "unevaluatedProperties" | "unevaluatedItems" => {
                    this.surveys = true;
                    this.rest.extend(each);
                }
                "$defs" | "definitions" | "default" | "examples" | "const" => continue,
                "$schema" if value.as_str().is_some_and(|draft| draft.trim_end_matches('#') != DRAFT) => {
                    return Err(format!("$schema is {value}, but schemas are of draft 2020-12: {DRAFT}"));
                }
                "$dynamicAnchor" => self.dynamic.entry(value.as_str().unwrap_or_default()).or_default().push(node),
                "$ref" | "$dynamicRef" => self.refer(node, value.as_str().unwrap_or_default(), base)?,
                _ => {}
            }
            let patterns = match keyword.as_str() {
                "pattern" => 1,
                "patternProperties" => members(value),
                _ => 0,
            };
            self.patterns += patterns;
            self.nodes[node].own += members(value) + patterns * PATTERN_STEPS;
        }
        self.nodes[node].inside.push(exclusive);
        Ok(())
    }

    fn refer(&mut self, node: usize, reference: &'a str, base: &Base) -> Result<(), String> {
        let resolver = self.registry.resolver((**base).clone());
        let target = resolver.lookup(reference).map_err(|error| {
            format!(
                "the reference {reference:?} leads to nothing in the schema, and none is followed beyond it: {error}"
            )
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
            "not"
            | "if"
            | "then"
            | "else"
            | "items"
            | "additionalItems"
            | "contains"
            | "additionalProperties"
            | "propertyNames"
            | "unevaluatedItems"
            | "unevaluatedProperties"
            | "contentSchema",
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(schema: &Value, value: &Value) -> Vec<Fault> {
        let schema = Schema::compile(schema.clone()).unwrap_or_else(|fault| panic!("{schema}: {fault:?}"));
        schema.check(value, json::canonical(value).len()).err().unwrap_or_default()
    }

    fn refused(schema: &Value) -> String {
        Schema::compile(schema.clone()).err().unwrap_or_else(|| panic!("{schema} was taken")).detail
    }

    /// `a0` leads to `a1` by `step`, that to `a2`, and so on to the last.
    fn chain(length: usize, last: Value, step: impl Fn(Value) -> Value) -> Value {
        let definition =
            |number: usize| (format!("a{number}"), step(json!({"$ref": format!("#/$defs/a{}", number + 1)})));
        let mut definitions: Map<String, Value> = (0..length).map(definition).collect();
        definitions.insert(format!("a{length}"), last);
        json!({"$defs": definitions, "$ref": "#/$defs/a0"})
    }

    fn nested(depth: usize, leaf: Value) -> Value {
        (0..depth).fold(leaf, |inner, _| json!({"a": inner}))
    }

    /// Some of these ran for ever, others were taken for true.
    #[test]
    fn a_reference_must_go_into_the_value() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"not": {"$ref": "#"}}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}], "unevaluatedProperties": false}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
            json!({"$anchor": "x", "if": {"$ref": "#x"}}),
            json!({"$id": "http://x/y", "dependentSchemas": {"a": {"$ref": "y"}}}),
            json!({"$dynamicAnchor": "x", "anyOf": [{"$dynamicRef": "#x"}]}),
            json!({"$dynamicAnchor": "x", "$ref": "b", "$defs": {"b": {"$id": "b", "$dynamicAnchor": "x", "$dynamicRef": "#x"}}}),
            json!({"const": {"$ref": "#/const"}, "$ref": "#/const"}),
        ] {
            assert!(refused(&schema).contains("leads back to itself"), "{schema}");
        }
        for schema in [
            json!({"properties": {"a": {"$ref": "#"}}}),
            json!({"$dynamicAnchor": "x", "additionalProperties": {"$dynamicRef": "#x"}}),
        ] {
            assert_eq!(faults(&schema, &nested(100, json!(1))), []);
        }
    }

    /// Each of these took exponential time or overflowed the stack, some of them while they were compiled.
    #[test]
    fn what_unfolds_too_far_is_refused() {
        let mut surveys = json!({"properties": {"a": true}});
        for _ in 0..30 {
            surveys = json!({"anyOf": [surveys], "unevaluatedProperties": false});
        }
        for schema in [
            surveys,
            chain(30, json!({}), |next| json!({"allOf": [next, next]})),
            chain(30, json!({}), |next| json!({"oneOf": [next, {"not": next}]})),
            chain(30, json!({}), |next| json!({"allOf": [next, next], "unevaluatedItems": false})),
            chain(5_000, json!({}), |next| json!({"anyOf": [next]})),
            chain(5_000, json!({}), |next| json!({"not": {"not": next}})),
        ] {
            assert!(refused(&schema).contains("unfolds"), "{schema}");
        }
    }

    #[test]
    fn a_recursive_schema_bounds_the_depth_by_its_branches() {
        // Each value is met once, so any depth is fine.
        let tree = json!({
            "type": "object",
            "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}, "items": {"items": {"$ref": "#"}}},
            "unevaluatedProperties": false,
        });
        assert_eq!(faults(&tree, &nested(99, json!({}))), []);
        assert_eq!(faults(&tree, &nested(50, json!(1))).len(), 1);
        // A value at the depth d is met 2^d times: with memoised results or without, and to tell what is wrong.
        let twice = json!({
            "type": "object",
            "allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}],
        });
        assert_eq!(faults(&twice, &nested(8, json!({}))), []);
        assert_eq!(faults(&twice, &nested(2, json!(1)))[0].pointer, "/a/a");
        assert!(faults(&twice, &nested(60, json!(1)))[0].detail.contains("too deep"));
    }

    /// The deepest that is let through fits in the stack of a thread that answers requests, for a value that meets the
    /// schema and for one that does not.
    #[test]
    fn the_deepest_check_fits_in_the_stack() {
        let deepest = |step: fn(Value) -> Value| {
            let last = json!({"type": ["object", "integer"], "properties": {"a": {"$ref": "#"}}});
            let schema = Schema::compile(chain(45, last, step)).ok().unwrap();
            let [meets, breaks] = [json!(1), json!("1")].map(|leaf| {
                let values = (1..=100).map(|depth| nested(depth, leaf.clone()));
                let outcomes = values.map(|value| schema.check(&value, json::canonical(&value).len()));
                outcomes.map(|outcome| outcome.err().map(|faults| faults[0].detail.clone())).collect::<Vec<_>>()
            });
            assert!(meets.contains(&None) && meets[99].as_ref().unwrap().contains("nested too deep"), "{meets:?}");
            assert!(!breaks.contains(&None));
        };
        let steps: [fn(Value) -> Value; 4] = [
            |next| json!({"anyOf": [next]}),
            |next| json!({"oneOf": [false, next]}),
            |next| json!({"allOf": [next]}),
            |next| json!({"if": true, "then": next}),
        ];
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(2 << 20);
            thread.spawn_scoped(scope, || steps.map(deepest)).unwrap().join().unwrap();
        });
    }

    #[test]
    fn patterns_are_linear_small_and_few() {
        assert_eq!(faults(&json!({"pattern": "^(a+)+$"}), &json!("a".repeat(100_000) + "b")).len(), 1);
        for pattern in ["(a{1000}){1000}", "(?=a)b", "(a)\\1", &"(".repeat(10_000)] {
            refused(&json!({"pattern": pattern}));
        }
        let many: Map<String, Value> = (0..1_001).map(|number| (format!("x{number}$"), json!(true))).collect();
        assert!(refused(&json!({"patternProperties": many})).contains("1001 patterns"));
    }

    /// Half a million faults took all memory, although twenty were told.
    #[test]
    fn work_and_faults_are_bounded_by_the_size_of_the_value() {
        let names: Vec<String> = (0..1_000).map(|number| format!("k{number}")).collect();
        let schema = json!({"items": {"required": names}});
        let objects = |count: usize| Value::Array(vec![json!({}); count]);
        assert_eq!(faults(&schema, &objects(5)).len(), Schema::FAULTS);
        let one = faults(&schema, &objects(1_000));
        assert_eq!((one.len(), one[0].pointer.as_str()), (1, "/0"));
        let none = faults(&schema, &objects(200_000));
        assert!(none.len() == 1 && none[0].detail.contains("too large"), "{none:?}");
        let values: Vec<Value> = (0..20_000).map(|number| json!([number])).collect();
        assert!(faults(&json!({"items": {"enum": values}}), &json!(values))[0].detail.contains("too large"));
    }

    #[test]
    fn a_schema_stands_alone_and_is_of_draft_2020_12() {
        for schema in [
            json!({"$ref": "http://127.0.0.1:9/schema.json"}),
            json!({"items": {"$ref": "file:///etc/passwd"}}),
            json!({"$dynamicRef": "other.json#x"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#"}),
            json!({"$defs": {"a": {"$id": "a", "$schema": "http://json-schema.org/draft-07/schema#"}}, "$ref": "a"}),
            json!({"$schema": "http://127.0.0.1:9/own"}),
            json!({"$id": "::"}),
            json!({"type": "objekt"}),
            json!({"description": "x".repeat(limits::RULES_BYTES)}),
            json!({"default": nested(limits::DATA_DEPTH - 1, json!(1))}),
        ] {
            refused(&schema);
        }
        let schema = json!({"$schema": DRAFT, "$defs": {"a": {"$id": "a", "type": "string"}}, "$ref": "a"});
        assert_eq!(faults(&schema, &json!("x")), []);
        assert_eq!(faults(&schema, &json!(1)).len(), 1);
        assert_eq!(faults(&json!({"default": nested(limits::DATA_DEPTH - 2, json!(1))}), &json!(1)), []);
        assert_eq!(faults(&json!(true), &nested(100, json!(1))), []);
        assert_eq!(faults(&json!(false), &json!(1)).len(), 1);
    }
}
