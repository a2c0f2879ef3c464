//! Which rights does who need?
//!
//! The same lists that the chart grants. Nobody needs a right on a whole cluster.

use std::fmt;

/// Verbs on resources of one API group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The group; empty for the core.
    pub group: &'static str,
    /// Resources, with subresources as in `pods/log`.
    pub resources: Vec<&'static str>,
    /// What may be done with them.
    pub verbs: Vec<&'static str>,
}

/// As a line of a Role.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = if self.group.is_empty() { "\"\"" } else { self.group };
        let (resources, verbs) = (self.resources.join(", "), self.verbs.join(", "));
        write!(f, "{{apiGroups: [{group}], resources: [{resources}], verbs: [{verbs}]}}")
    }
}

/// What somebody is to Vonk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A driver that is a pod of a Job. Executors have no rights at all.
    Driver,
    /// Whoever submits to cluster mode, and all other commands.
    Submitter,
    /// A notebook or laptop that is the driver itself.
    Client,
}

impl Part {
    /// The Role's name in the chart.
    #[must_use]
    pub fn role(self) -> &'static str {
        match self {
            Self::Driver => "vonk-driver",
            Self::Submitter => "vonk-submitter",
            Self::Client => "vonk-client",
        }
    }

    /// Everything it needs, and nothing that it does not use.
    #[must_use]
    pub fn rules(self) -> Vec<Rule> {
        let pods = vec!["create", "get", "list", "watch", "delete", "deletecollection"];
        let mut driver = vec![
            Rule { group: "", resources: vec!["pods"], verbs: pods },
            Rule { group: "", resources: vec!["pods/log", "events"], verbs: vec!["get", "list"] },
        ];
        match self {
            Self::Driver => driver,
            Self::Submitter => vec![
                Rule {
                    group: "batch",
                    resources: vec!["jobs"],
                    verbs: vec!["create", "get", "list", "watch", "patch", "delete"],
                },
                Rule { group: "", resources: vec!["secrets", "configmaps"], verbs: vec!["create"] },
                Rule { group: "", resources: vec!["pods", "pods/log"], verbs: vec!["get", "list", "watch"] },
                // `vonk kill --now`.
                Rule { group: "", resources: vec!["pods"], verbs: vec!["deletecollection"] },
                Rule { group: "", resources: vec!["events", "resourcequotas", "limitranges"], verbs: vec!["list"] },
                Rule { group: "coordination.k8s.io", resources: vec!["leases"], verbs: vec!["list", "delete"] },
            ],
            Self::Client => {
                driver.extend([
                    Rule { group: "", resources: vec!["secrets"], verbs: vec!["create"] },
                    Rule { group: "", resources: vec!["pods/portforward"], verbs: vec!["get", "create"] },
                    Rule {
                        group: "coordination.k8s.io",
                        resources: vec!["leases"],
                        verbs: vec!["create", "get", "list", "patch", "delete"],
                    },
                ]);
                driver
            }
        }
    }
}

impl Rule {
    /// Every resource with every verb, one by one.
    pub fn each(&self) -> impl Iterator<Item = Rule> + '_ {
        self.resources.iter().flat_map(move |resource| {
            let one =
                move |verb: &&'static str| Rule { group: self.group, resources: vec![resource], verbs: vec![verb] };
            self.verbs.iter().map(one)
        })
    }
}

/// Single rules joined again: those on the same resource become one.
#[must_use]
pub fn joined(single: Vec<Rule>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in single {
        match rules.iter_mut().find(|known| known.group == rule.group && known.resources == rule.resources) {
            Some(known) => known.verbs.extend(rule.verbs),
            None => rules.push(rule),
        }
    }
    rules
}

/// Who is given a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A person, or whatever else the API server knows by this name.
    User(String),
    /// An account of pods.
    Account {
        /// Where it is.
        namespace: String,
        /// What it is called there.
        name: String,
    },
    /// Nobody says who.
    Unknown,
}

impl Subject {
    /// Whom the API server calls so.
    #[must_use]
    pub fn named(username: &str) -> Self {
        match username.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':')) {
            Some((namespace, name)) => Self::Account { namespace: namespace.to_owned(), name: name.to_owned() },
            None => Self::User(username.to_owned()),
        }
    }

    /// What tells its binding from those of others, which stay as they are.
    fn word(&self) -> String {
        // All that names of bindings may not have.
        let allowed = |name: &str| name.replace(['/', '%'], "-");
        match self {
            Self::User(name) => allowed(name),
            Self::Account { namespace, name } => format!("{namespace}.{name}"),
            Self::Unknown => "you".to_owned(),
        }
    }
}

/// As in the list of a RoleBinding.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "{{apiGroup: {RBAC}, kind: User, name: {}}}", scalar(name)),
            Self::Account { namespace, name } => {
                write!(f, "{{kind: ServiceAccount, name: {}, namespace: {}}}", scalar(name), scalar(namespace))
            }
            Self::Unknown => write!(
                f,
                "{{apiGroup: {RBAC}, kind: User, name: YOU}} # the API server does not say who you are: write it here"
            ),
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// A text as a value in YAML: quoted where it could be read as something else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let word = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&text);
    match text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(plain) && !word {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

/// The whole Role of a part, and a binding that gives it to somebody, to be applied. A list of rules is replaced as a whole,
/// so that all stand there; those of which something is missing say so.
#[must_use]
pub fn yaml(part: Part, namespace: &str, missing: &[Rule], to: &Subject) -> String {
    let (role, place) = (part.role(), scalar(namespace));
    let mut text =
        format!("apiVersion: {RBAC}/v1\nkind: Role\nmetadata: {{name: {role}, namespace: {place}}}\nrules:\n");
    for rule in part.rules() {
        text.push_str(&format!("- {rule}{}\n", mark(&rule, missing)));
    }
    let binding = scalar(&format!("{role}-for-{}", to.word()));
    text.push_str(&format!(
        "---\napiVersion: {RBAC}/v1\nkind: RoleBinding\nmetadata: {{name: {binding}, namespace: {place}}}\n\
         roleRef: {{apiGroup: {RBAC}, kind: Role, name: {role}}}\nsubjects:\n- {to}\n"
    ));
    text
}

/// A comment that says what of a rule is missing.
fn mark(rule: &Rule, missing: &[Rule]) -> String {
    let missing: Vec<Rule> = missing.iter().flat_map(Rule::each).collect();
    let lacks = joined(rule.each().filter(|one| missing.contains(one)).collect());
    match lacks.iter().map(|rule| rule.each().count()).sum::<usize>() {
        0 => String::new(),
        all if all == rule.each().count() => " # missing".to_owned(),
        _ => {
            let lacks = lacks.iter().map(|rule| format!("{} {}", rule.verbs.join(", "), rule.resources.join(", ")));
            format!(" # missing: {}", lacks.collect::<Vec<_>>().join("; "))
        }
    }
}

/// An account, to be applied.
#[must_use]
pub fn account(namespace: &str, name: &str) -> String {
    let (name, namespace) = (scalar(name), scalar(namespace));
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceAccount;
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

    use super::*;
    use crate::manifest;

    /// It had the missing rules alone: applied, it took all others away.
    #[test]
    fn what_is_missing_is_printed_as_it_is_applied() {
        let client = Part::Client.rules();
        let lacks = |rule: &Rule| rule.verbs == ["delete"] || rule.resources == ["secrets"];
        let missing = joined(client.iter().flat_map(Rule::each).filter(lacks).collect());
        let ada = Subject::named("ada@example.org");
        insta::assert_snapshot!(yaml(Part::Client, "team-a", &missing, &ada), @r#"
        apiVersion: rbac.authorization.k8s.io/v1
        kind: Role
        metadata: {name: vonk-client, namespace: team-a}
        rules:
        - {apiGroups: [""], resources: [pods], verbs: [create, get, list, watch, delete, deletecollection]} # missing: delete pods
        - {apiGroups: [""], resources: [pods/log, events], verbs: [get, list]}
        - {apiGroups: [""], resources: [secrets], verbs: [create]} # missing
        - {apiGroups: [""], resources: [pods/portforward], verbs: [get, create]}
        - {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, list, patch, delete]} # missing: delete leases
        ---
        apiVersion: rbac.authorization.k8s.io/v1
        kind: RoleBinding
        metadata: {name: "vonk-client-for-ada@example.org", namespace: team-a}
        roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: vonk-client}
        subjects:
        - {apiGroup: rbac.authorization.k8s.io, kind: User, name: "ada@example.org"}
        "#);
    }

    #[test]
    fn a_binding_is_of_who_asks_and_touches_no_other() {
        let bound = |subject: &Subject| {
            let text = yaml(Part::Driver, "7", &[], subject);
            let lines = text.lines().skip_while(|line| *line != "kind: RoleBinding").skip(1);
            lines.filter(|line| !line.starts_with("roleRef") && *line != "subjects:").collect::<Vec<_>>().join("\n")
        };
        let subjects = ["system:serviceaccount:etl:true", "arn:aws:iam::1:role/etl"].map(Subject::named);
        insta::assert_snapshot!(subjects.iter().chain([&Subject::Unknown]).map(bound).collect::<Vec<_>>().join("\n"), @r#"
        metadata: {name: vonk-driver-for-etl.true, namespace: "7"}
        - {kind: ServiceAccount, name: "true", namespace: etl}
        metadata: {name: "vonk-driver-for-arn:aws:iam::1:role-etl", namespace: "7"}
        - {apiGroup: rbac.authorization.k8s.io, kind: User, name: "arn:aws:iam::1:role/etl"}
        metadata: {name: vonk-driver-for-you, namespace: "7"}
        - {apiGroup: rbac.authorization.k8s.io, kind: User, name: YOU} # the API server does not say who you are: write it here
        "#);
    }

    #[test]
    fn what_is_printed_is_what_kubernetes_reads() {
        for part in [Part::Driver, Part::Submitter, Part::Client] {
            let text = yaml(part, "default", &part.rules(), &Subject::named("o'brien \"x\""));
            let (role, binding) = text.split_once("---\n").unwrap();
            let role: Role = manifest::read(role).unwrap();
            let rules = role.rules.unwrap_or_default();
            let verbs: usize =
                rules.iter().map(|rule| rule.verbs.len() * rule.resources.iter().flatten().count()).sum();
            assert_eq!(verbs, part.rules().iter().map(|rule| rule.each().count()).sum::<usize>());
            let binding: RoleBinding = manifest::read(binding).unwrap();
            assert_eq!(binding.role_ref.name, part.role());
            assert_eq!(binding.subjects.unwrap_or_default()[0].name, "o'brien \"x\"");
        }
        let account: ServiceAccount = manifest::read(&account("no", "1")).unwrap();
        assert_eq!((account.metadata.namespace.as_deref(), account.metadata.name.as_deref()), (Some("no"), Some("1")));
    }

    #[test]
    fn nobody_reads_a_secret_and_joining_loses_nothing() {
        for part in [Part::Driver, Part::Submitter, Part::Client] {
            let single: Vec<Rule> = part.rules().iter().flat_map(Rule::each).collect();
            let secrets = single.iter().filter(|rule| rule.resources == ["secrets"]);
            assert!(secrets.clone().all(|rule| rule.verbs == ["create"]), "{}", part.role());
            let again: usize = joined(single.clone()).iter().map(|rule| rule.each().count()).sum();
            assert_eq!(again, single.len());
        }
    }

    #[test]
    fn the_chart_grants_exactly_these() {
        let chart = include_str!("../../../charts/vonk/templates/roles.yaml");
        for part in [Part::Driver, Part::Submitter, Part::Client] {
            let name = format!("\n  name: {}\n", part.role());
            let role = chart.split("\n---\n").find(|role| role.contains(&name)).unwrap();
            let granted: Vec<&str> = role.lines().filter_map(|line| line.strip_prefix("- ")).collect();
            let needed: Vec<String> = part.rules().iter().map(Rule::to_string).collect();
            assert_eq!(granted, needed, "{}", part.role());
        }
    }
}
