// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoints/checkpoint.h"
#include "checkpoints/locate.h"
#include "core/json.h"
#include "core/names.h"
#include "launcher/look.h"
#include "launcher/table.h"

namespace rekindle {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

// One model of the tree: the newest checkpoint of a run, or a parent of which nothing but the digest is left.
struct Node {
  std::string digest, parent;
  std::optional<Checkpoint> checkpoint;
  std::string run;      // its name
  std::string verdict;  // empty: not judged yet
  bool serves = false;
};

std::string verdict_of(FileSystem& files, const fs::path& run) {
  const fs::path path = run / names::kVerdict;
  if (!files.exists(path)) return "";
  try {
    const nlohmann::json verdict = parse_json(read_text(files, path), path.string());
    return verdict.is_object() && verdict.contains("verdict") && verdict["verdict"].is_string()
               ? verdict["verdict"].get<std::string>()
               : "unreadable verdict";
  } catch (const Error&) {
    return "unreadable verdict";
  }
}

// The folder whose runs are asked for: the path itself, or the one that a run or checkpoint in it lies in.
fs::path line_of(FileSystem& files, const fs::path& given) {
  if (!runs_in(files, given).empty()) return given;
  fs::path path = fs::canonical(locate(files, given).path);
  while (path.has_parent_path() && path != path.parent_path()) {
    if (files.exists(path / names::kResolvedJob))
      return path.parent_path().empty() ? "." : path.parent_path();
    path = path.parent_path();
  }
  return {};
}

// Empty where the checkpoint is damaged: `rekindle verify` says how.
std::string digest_at(FileSystem& files, const fs::path& path) {
  try {
    return open_checkpoint(files, path, Verify::kDocuments).digest();
  } catch (const Error&) {
    return "";
  }
}

// Every checkpoint of a run may be somebody's parent; the tree shows the newest for all of them.
std::vector<Node> nodes_of(FileSystem& files, const fs::path& line) {
  std::vector<Node> nodes;
  std::map<std::string, std::string> newest_of;  // by the digest of any generation of the same run
  std::string serving;
  if (files.exists(line / names::kPromoted)) serving = digest_at(files, line / names::kPromoted);
  for (const fs::path& run : runs_in(files, line)) {
    Node node;
    std::set<std::string> digests;
    for (const fs::path& generation : generations_in(files, run)) {
      try {
        node.checkpoint = open_checkpoint(files, generation, Verify::kDocuments);
        digests.insert(node.checkpoint->digest());
      } catch (const Error&) {  // damaged: `rekindle verify` says how
      }
    }
    if (!node.checkpoint) continue;
    node.digest = node.checkpoint->digest();
    node.parent = node.checkpoint->lineage.parent;
    node.run = run.filename().string();
    node.verdict = verdict_of(files, run);
    node.serves = digests.contains(serving);
    for (const std::string& digest : digests) newest_of[digest] = node.digest;
    nodes.push_back(std::move(node));
  }
  for (Node& node : nodes) {
    if (const auto known = newest_of.find(node.parent);
        known != newest_of.end() && known->second != node.digest)
      node.parent = known->second;
  }
  return nodes;
}

// A checkpoint that was taken out of its run: of its ancestors it knows the digest of one.
Node node_alone(FileSystem& files, const fs::path& path) {
  Node node;
  node.checkpoint = open_checkpoint(files, path, Verify::kDocuments);
  node.digest = node.checkpoint->digest();
  node.parent = node.checkpoint->lineage.parent;
  node.run = (path.has_filename() ? path : path.parent_path()).filename().string();
  return node;
}

// "2, then 4 workers".
std::string workers_of(const std::vector<WorldSpan>& worlds) {
  std::string text;
  for (const WorldSpan& span : worlds) text += (text.empty() ? "" : ", then ") + std::to_string(span.world);
  return text + (worlds.size() == 1 && worlds[0].world == 1 ? " worker" : " workers");
}

std::string text_of(const Node& node) {
  if (!node.checkpoint) return node.digest.substr(0, 12) + "  (elsewhere)";
  const Progress& progress = node.checkpoint->state.progress;
  std::string text = node.digest.substr(0, 12) + "  " + node.run + "  " + grouped(progress.step) +
                     " steps, " + grouped(progress.samples) + " samples";
  size_t increments = node.checkpoint->lineage.increments.size();
  text += ", " + std::to_string(increments) + (increments == 1 ? " increment" : " increments");
  text += ", on " + workers_of(node.checkpoint->state.worlds);
  if (node.checkpoint->state.averaged) text += ", averaged";
  text += "  " + (node.verdict.empty() ? "not judged" : node.verdict);
  return text + (node.serves ? "  <- serves" : "");
}

void print_below(const std::vector<Node>& nodes, const std::string& parent, const std::string& indent) {
  std::vector<const Node*> children;
  for (const Node& node : nodes)
    if (node.parent == parent && node.digest != parent) children.push_back(&node);
  for (const Node* child : children) {
    const bool last = child == children.back();
    std::printf("%s%s%s\n", indent.c_str(), last ? "└─ " : "├─ ", text_of(*child).c_str());
    print_below(nodes, child->digest, indent + (last ? "   " : "│  "));
  }
}

void print_tree(const std::vector<Node>& nodes) {
  std::set<std::string> known, roots;
  for (const Node& node : nodes) known.insert(node.digest);
  for (const Node& node : nodes) {
    if (!node.parent.empty() && known.contains(node.parent)) continue;
    if (node.parent.empty()) {
      std::printf("%s\n", text_of(node).c_str());
      print_below(nodes, node.digest, "");
    } else if (roots.insert(node.parent).second) {
      Node elsewhere;
      elsewhere.digest = node.parent;
      std::printf("%s\n", text_of(elsewhere).c_str());
      print_below(nodes, node.parent, "");
    }
  }
}

ordered_json to_json(const std::vector<Node>& nodes) {
  ordered_json list = ordered_json::array();
  for (const Node& node : nodes) {
    const Checkpoint& checkpoint = *node.checkpoint;
    ordered_json worlds = ordered_json::array();
    for (const WorldSpan& span : checkpoint.state.worlds)
      worlds.push_back({{"from_step", span.from_step}, {"workers", span.world}});
    list.push_back({{"digest", node.digest},
                    {"parent", node.parent},
                    {"run", node.run},
                    {"path", checkpoint.path.string()},
                    {"step", checkpoint.state.progress.step},
                    {"samples", checkpoint.state.progress.samples},
                    {"worlds", worlds},
                    {"averaged", checkpoint.state.averaged},
                    {"job", checkpoint.lineage.job},
                    {"build", checkpoint.lineage.build},
                    {"increments", to_json(checkpoint.lineage)["increments"]},
                    {"origin", to_json(checkpoint.lineage)["origin"]},
                    {"verdict", node.verdict},
                    {"serves", node.serves}});
  }
  return list;
}

}  // namespace

ExitCode lineage(FileSystem& files, const fs::path& path, bool json) {
  const fs::path line = line_of(files, path);
  std::vector<Node> nodes = line.empty() ? std::vector<Node>() : nodes_of(files, line);
  if (line.empty() && looks_like_checkpoint(files, path)) nodes.push_back(node_alone(files, path));
  if (nodes.empty()) throw bad_input("there is no run with a checkpoint here", path.string());
  if (json) {
    std::puts(to_json(nodes).dump(2).c_str());
  } else {
    print_tree(nodes);
  }
  return ExitCode::kDone;
}

}  // namespace rekindle
