// SPDX-License-Identifier: Apache-2.0
#include "job/reader.h"

#include <algorithm>
#include <map>

#include "core/text.h"
#include "job/keys.h"
#include "job/source.h"

namespace rekindle {
namespace {

// Fills a Job from a parsed file, key by key.
class JobReader {
 public:
  JobReader(std::filesystem::path folder, Mistakes& mistakes)
      : folder_(std::move(folder)), mistakes_(mistakes) {
    job_.model = ModelOptions(job_.model.name(), built_in_model_defaults(job_.model.name()));
  }

  Job read(const toml::table& root) {
    if (root.contains("verdict")) job_.verdict.emplace();
    read_tables(root, "");
    check_rules(root, given_, job_, mistakes_);
    return std::move(job_);
  }

 private:
  void read_tables(const toml::table& table, const std::string& section) {
    for (const auto& [key, node] : table) {
      const std::string name =
          section.empty() ? std::string(key.str()) : section + "." + std::string(key.str());
      if (!is_section(name)) {
        read_key(key, node, section);
      } else if (!node.is_table()) {
        item(node, name).wrong("a table, [" + name + "]");
      } else if (name == kAnyModel) {
        read_model(*node.as_table());
      } else {
        read_tables(*node.as_table(), name);
      }
    }
  }

  void read_key(const toml::key& key, const toml::node& node, const std::string& section) {
    const Key<Job>* row = find_key(job_keys(), section, key.str());
    if (row == nullptr) return given_.add_slip(report_unknown(key, section, mistakes_));
    given_.add(row->full_name(), key.source(), row->read(item(node, row->full_name()), job_));
  }

  void read_model(const toml::table& table) {
    if (const toml::node* name = table.get("name")) {
      read_key(table.find("name")->first, *name, kAnyModel);
      if (!given_.well("model.name")) return;  // which keys there may be is not known
      job_.model = ModelOptions(job_.model.name(), built_in_model_defaults(job_.model.name()));
    }
    const bool built_in = std::ranges::count(built_in_models(), job_.model.name()) > 0;
    const std::vector<std::string> own = built_in_model_keys(job_.model.name());
    for (const auto& [key, node] : table) {
      if (key.str() == "name") continue;
      if (!built_in) {
        read_own_key(key, node);
      } else if (find_key(job_keys(), kAnyModel, key.str()) && std::ranges::count(own, key.str()) == 0) {
        mistakes_.add(key.source(), "model." + std::string(key.str()) + " does not go with model.name = '" +
                                        job_.model.name() + "'");
      } else {
        read_key(key, node, kAnyModel);
      }
    }
  }

  // A key of a model that is not ours: which types it wants only that model knows.
  void read_own_key(const toml::key& key, const toml::node& node) {
    const std::string name(key.str());
    if (const auto value = read_model_value(item(node, "model." + shown(name)))) {
      auto values = job_.model.values();
      values[name] = *value;
      job_.model = ModelOptions(job_.model.name(), std::move(values));
    }
  }

  Item item(const toml::node& node, const std::string& name) const {
    return {node, name, folder_, mistakes_};
  }

  std::filesystem::path folder_;
  Mistakes& mistakes_;
  Given given_;
  Job job_;
};

// Of keys that exclude each other, the one in an override takes the place of the one in the file.
void drop_alternatives(toml::table& root, const std::vector<std::string>& overridden) {
  const auto is_overridden = [&](const std::string& name) {
    return std::ranges::count(overridden, name) > 0;
  };
  for (const Key<Job>& key : job_keys()) {
    if (key.one_of.empty() || !is_overridden(key.full_name())) continue;
    toml::table* section = root.get_as<toml::table>(key.section);
    for (const std::string& other : key.one_of) {
      if (section != nullptr && !is_overridden(key.section + "." + other)) section->erase(other);
    }
  }
}

void lay_overrides(toml::table& root, std::span<const std::string> overrides, Mistakes& mistakes) {
  std::vector<toml::table> trees;
  std::vector<std::string> names;
  for (const std::string& text : overrides) {
    if (auto tree = parse_override(text, mistakes)) {
      names.push_back(name_of_override(*tree));
      trees.push_back(std::move(*tree));
    }
  }
  drop_alternatives(root, names);
  for (toml::table& tree : trees) lay_over(root, std::move(tree));
}

}  // namespace

namespace {

// What other trainers call it.
const std::map<std::string, std::string>& other_names() {
  static const std::map<std::string, std::string> names{{"batch_size", "batch.global"},
                                                        {"train_batch_size", "batch.global"},
                                                        {"per_device_train_batch_size", "batch.per_worker"},
                                                        {"gradient_accumulation_steps", "batch.microbatch"},
                                                        {"lr", "schedule.base_lr"},
                                                        {"learning_rate", "schedule.base_lr"},
                                                        {"warmup_steps", "schedule.warmup"},
                                                        {"warmup_epochs", "schedule.warmup"},
                                                        {"warmup_ratio", "schedule.warmup"},
                                                        {"lr_scheduler", "schedule.decay"},
                                                        {"lr_scheduler_type", "schedule.decay"},
                                                        {"min_lr", "schedule.min_lr_factor"},
                                                        {"gamma", "schedule.decay_factor"},
                                                        {"milestones", "schedule.decay_at"},
                                                        {"epochs", "run.duration"},
                                                        {"num_epochs", "run.duration"},
                                                        {"num_train_epochs", "run.duration"},
                                                        {"max_epochs", "run.duration"},
                                                        {"max_steps", "run.duration"},
                                                        {"max_duration", "run.duration"},
                                                        {"clip_grad_norm", "optimizer.max_grad_norm"},
                                                        {"gradient_clip_val", "optimizer.max_grad_norm"},
                                                        {"ema_decay", "optimizer.ema_half_life"},
                                                        {"ema", "optimizer.ema_half_life"},
                                                        {"fp16", "run.precision"},
                                                        {"bf16", "run.precision"},
                                                        {"num_workers", "run.workers"},
                                                        {"output_dir", "run.directory"},
                                                        {"save_every", "checkpoint.every"},
                                                        {"save_steps", "checkpoint.every"},
                                                        {"eval_every", "evaluation.every"},
                                                        {"eval_steps", "evaluation.every"}};
  return names;
}

}  // namespace

std::string report_unknown(const toml::key& key, const std::string& section, Mistakes& mistakes) {
  const std::string word(key.str());
  const std::vector<std::string> known = names_in(section);
  std::string meant;
  std::string what = (section.empty() ? "unknown section or key '" : "unknown key '") + shown(word) + "'";
  if (!section.empty()) what += " in [" + section + "]";
  std::string help = did_you_mean(word, known, &meant);
  if (!meant.empty() && !section.empty()) meant = section + "." + meant;

  for (const Key<Job>& row : job_keys()) {  // a known key that stands in the wrong section
    if (help.empty() && row.name == word)
      help = "did you mean '" + row.full_name() + "'?", meant = row.full_name();
  }
  const bool of_job =
      std::ranges::any_of(job_keys(), [&](const Key<Job>& row) { return row.section == section; });
  const auto other = other_names().find(word);
  if (of_job && other != other_names().end() && (help.empty() || other->second.starts_with(section + "."))) {
    meant = other->second;
    help = "did you mean '" + meant + "'?";
  }
  mistakes.add(key.source(), what + ", " + (help.empty() ? "expected one of " + enumerate(known) : help));
  return meant;
}

Job read_job(const std::filesystem::path& file, std::span<const std::string> overrides) {
  const std::string name = file.string();
  toml::table root = parse_job_file(file, name);
  Mistakes mistakes(name);
  lay_overrides(root, overrides, mistakes);

  const std::filesystem::path absolute = std::filesystem::absolute(file).lexically_normal();
  Job job = JobReader(absolute.parent_path(), mistakes).read(root);
  if (!mistakes.none()) throw mistakes.error();
  job.file = absolute;
  return job;
}

}  // namespace rekindle
