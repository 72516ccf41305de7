// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "job/keys.h"
#include "job/kinds.h"

namespace rekindle {
namespace {

using Value = ModelOptions::Value;

constexpr char kExpected[] = "a text, a number, true, false, a list of integers or a list of texts";

std::optional<Value> read_list(const Item& item, const toml::array& array) {
  if (array.is_homogeneous<std::string>()) {
    std::vector<std::string> texts;
    for (const toml::node& node : array) texts.push_back(node.as_string()->get());
    return texts;
  }
  std::vector<int64_t> numbers;
  for (const toml::node& node : array) {
    if (!node.is_integer()) return item.element(node).wrong("a list of integers or of texts");
    numbers.push_back(node.as_integer()->get());
  }
  return numbers;
}

struct Printer {
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(int64_t value) const { return std::to_string(value); }
  std::string operator()(double value) const { return to_toml_number(value); }
  std::string operator()(const std::string& value) const { return quote(value); }
  template <typename T>
  std::string operator()(const std::vector<T>& values) const {
    std::string text;
    for (const T& value : values) text += (text.empty() ? "" : ", ") + (*this)(value);
    return "[" + text + "]";
  }
};

}  // namespace

const std::vector<std::string>& models_not_built() {
  static const std::vector<std::string> names{"resnet34", "resnet50", "bert", "gpt2", "torchscript"};
  return names;
}

std::optional<Value> read_model_value(const Item& item) {
  if (const auto* value = item.node.as_boolean()) return value->get();
  if (const auto* value = item.node.as_integer()) return value->get();
  if (const auto* value = item.node.as_floating_point()) return value->get();
  if (const auto* value = item.node.as_string()) return value->get();
  if (const toml::array* array = item.node.as_array()) return read_list(item, *array);
  return item.wrong(kExpected);
}

std::string print_model_value(const Value& value) {
  return std::visit(Printer{}, value);
}

}  // namespace rekindle
