// A client of a relay policy server in C++17, written from proto/rpl/v1/relay.proto alone.
//
//     client ADDRESS[,ADDRESS...] ELEMENT[,ELEMENT...] [STEPS]
//
// RPL_CA names the file of a certificate authority (and switches TLS on), RPL_TOKEN_FILE that of a token. Prints each
// step as a line of JSON. Exits with 1 if the server refuses something, with 4 if no server answers.

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "rpl/v1/relay.grpc.pb.h"

namespace {

namespace pb = rpl::v1;
using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kSilence = 5s;    // after which a server that does not answer counts as gone
constexpr auto kPatience = 30s;  // for which a lost run looks for a server

// What the server will not do: a stable reason, and a message for people.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// No server answers, for now.
struct Lost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::int64_t now_ns() { return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count(); }

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " cannot be read");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Raises the error of a call that ended with a status.
void check(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return;
  const auto code = status.error_code();
  if (code == grpc::UNAVAILABLE || code == grpc::CANCELLED || code == grpc::DEADLINE_EXCEEDED) {
    throw Lost(status.error_message());
  }
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto reason = trailers.find("rpl-reason");
  const std::string name = reason == trailers.end() ? "status " + std::to_string(code)
                                                    : std::string(reason->second.data(), reason->second.size());
  throw Refused(name + ": " + status.error_message());
}

// In place of this, your robot. This one stands at once where it is told to, as if its state began with its joints.
class Robot {
 public:
  explicit Robot(const pb::ModelSpec& spec) {
    for (int dim = 0; dim < spec.state().low_size(); ++dim) {
      state_.push_back(static_cast<float>((spec.state().low(dim) + spec.state().high(dim)) / 2));
    }
  }

  std::vector<float> observe() const { return state_; }

  // Follows a target for one period. A real robot comes to rest by itself if none comes.
  void apply(const pb::Action& action) { std::copy(action.target().begin(), action.target().end(), state_.begin()); }

 private:
  std::vector<float> state_;
};

// One run of one robot, which goes on at the next address if its stream breaks.
class Run {
 public:
  Run(std::deque<std::string> addresses, std::string robot) : addresses_(std::move(addresses)), robot_(std::move(robot)) {
    if (const char* path = std::getenv("RPL_CA")) authority_ = text_of(path);
    if (const char* path = std::getenv("RPL_TOKEN_FILE")) {
      token_ = text_of(path);
      token_.erase(token_.find_last_not_of(" \r\n") + 1);
    }
  }

  ~Run() { hang_up(); }

  // The policy's spec.
  pb::ModelSpec describe() {
    return persist<pb::ModelSpec>([this] {
      connect();
      const auto context = make_context();
      context->set_deadline(std::chrono::system_clock::now() + kSilence);
      pb::DescribeReply reply;
      check(stub_->Describe(context.get(), {}, &reply), *context);
      return reply.spec();
    });
  }

  // Begins the run. The goal that the server makes of the elements is the run's from here on.
  pb::Started start(const std::vector<std::string>& elements, const std::vector<float>& state) {
    pb::RequestRow row;
    for (const auto& name : elements) row.mutable_start()->mutable_goal()->mutable_elements()->add_names(name);
    row.mutable_start()->mutable_state()->Assign(state.begin(), state.end());
    const pb::Started started = ask(row).started();
    digest_ = started.digest();  // only the same bundle may go on with this run
    *resuming_.emplace().mutable_goal()->mutable_resolved() = started.goal();
    return started;
  }

  // The action for the next step, in a state that was measured now.
  pb::Action step(const std::vector<float>& state) {
    pb::RequestRow row;
    row.mutable_observation()->set_step(resuming_->resume().step());
    row.mutable_observation()->mutable_state()->Assign(state.begin(), state.end());
    row.mutable_observation()->set_observed_ns(now_ns());
    const pb::Action action = ask(row).action();
    if (action.has_goal()) *resuming_->mutable_goal()->mutable_resolved() = action.goal();  // an operator's
    pb::ResumePoint& resume = *resuming_->mutable_resume();
    resume.set_step(row.observation().step() + 1);
    resume.set_age(action.age() + 1);
    if (action.subgoal_size() > 0) *resume.mutable_subgoal() = action.subgoal();  // sent only when it is new
    if (action.upcoming_size() > 0 || action.replanned()) *resume.mutable_upcoming() = action.upcoming();
    if (action.replanned()) resume.set_lasts(action.origin().lasts());
    const bool pinned = action.override() == pb::SUBGOAL_OVERRIDE_PINNED || action.override() == pb::SUBGOAL_OVERRIDE_CLAIMED;
    resume.set_override(pinned ? pb::SUBGOAL_OVERRIDE_PINNED : pb::SUBGOAL_OVERRIDE_NONE);  // all others end
    return action;
  }

  pb::Finished finish() {
    pb::RequestRow row;
    row.mutable_finish();
    return ask(row).finished();
  }

 private:
  // Sends one row and returns its reply.
  pb::ReplyRow ask(const pb::RequestRow& row) {
    return persist<pb::ReplyRow>([&] {
      if (!stream_) open();
      return exchange(row);
    });
  }

  // Opens a stream, and goes on with the run if it has begun.
  void open() {
    connect();
    context_ = make_context();
    stream_ = stub_->Control(context_.get());
    if (!resuming_) return;
    pb::RequestRow row;
    *row.mutable_start() = *resuming_;
    exchange(row);
    // A robot that moved on meanwhile also sends SetGoal with this goal, and so gets a new plan.
    std::cerr << "goes on at " << addresses_.front() << " with step " << resuming_->resume().step() << "\n";
  }

  pb::ReplyRow exchange(pb::RequestRow row) {
    row.set_robot(robot_);
    pb::ControlRequest request;
    *request.add_rows() = row;
    pb::ControlReply reply;
    auto answered = std::async(std::launch::async, [&] { return stream_->Write(request) && stream_->Read(&reply); });
    if (answered.wait_for(kSilence) != std::future_status::ready) context_->TryCancel();
    if (!answered.get()) {
      check(stream_->Finish(), *context_);
      throw Lost("the server ended the stream");
    }
    const pb::ReplyRow& answer = reply.rows(0);
    if (!answer.has_refusal()) return answer;
    const auto& refusal = answer.refusal();
    // A server keeps the robot for its broken stream until it notices.
    if (refusal.reason() == "RobotLeased" && row.start().goal().has_resolved()) throw Lost(refusal.message());
    throw Refused(refusal.reason() + ": " + refusal.message());
  }

  void connect() {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = authority_;
    stub_ = pb::RelayPolicy::NewStub(grpc::CreateChannel(
        addresses_.front(), authority_.empty() ? grpc::InsecureChannelCredentials() : grpc::SslCredentials(options)));
  }

  std::unique_ptr<grpc::ClientContext> make_context() const {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
    if (!digest_.empty()) context->AddMetadata("rpl-digest", digest_);
    return context;
  }

  void hang_up() {
    if (context_) context_->TryCancel();
    stream_.reset();
    context_.reset();
  }

  // The answer of `ask`, which is asked again, at the next address, while no server answers.
  template <typename Answer>
  Answer persist(const std::function<Answer()>& ask) {
    const auto began = Clock::now();
    for (int tries = 0;; ++tries) {
      try {
        return ask();
      } catch (const Lost& error) {
        if (Clock::now() - began > kPatience) throw;
        if (tries == 0) {
          std::cerr << addresses_.front() << ": " << error.what() << "; tries again for " << kPatience.count() << " s\n";
        }
        hang_up();
        addresses_.push_back(addresses_.front());
        addresses_.pop_front();
        std::this_thread::sleep_for(100ms);
      }
    }
  }

  std::deque<std::string> addresses_;
  std::string robot_, authority_, token_, digest_;
  std::unique_ptr<pb::RelayPolicy::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::ControlRequest, pb::ControlReply>> stream_;
  std::optional<pb::Start> resuming_;  // begins the run on another stream, where it is; none before the run begins
};

std::vector<std::string> split(const std::string& names) {
  std::vector<std::string> found;
  std::stringstream rest(names);
  for (std::string name; std::getline(rest, name, ',');) found.push_back(name);
  return found;
}

template <typename Numbers>
void print(const char* name, const Numbers& numbers) {
  std::printf(", \"%s\": [", name);
  const char* between = "";
  for (const float number : numbers) {
    std::printf("%s%.9g", between, number);
    between = ", ";
  }
  std::printf("]");
}

void run(const std::vector<std::string>& addresses, const std::vector<std::string>& elements, int steps) {
  Run run({addresses.begin(), addresses.end()}, "cpp-1");
  const pb::ModelSpec spec = run.describe();
  Robot robot(spec);
  const pb::Started started = run.start(elements, robot.observe());
  std::cerr << spec.name() << ": a subgoal every " << started.horizon() << " steps of " << spec.period_s() << " s\n";
  const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(spec.period_s()));
  auto due = Clock::now();
  for (int step = 0; step < steps; ++step) {
    const std::vector<float> state = robot.observe();
    const pb::Action action = run.step(state);
    if (now_ns() < action.valid_until_ns()) {
      robot.apply(action);
    } else {
      std::cerr << "step " << step << ": the action came too late; the robot stays where it is\n";
    }
    std::printf("{\"step\": %d", step);
    print("state", state);
    print("target", action.target());
    std::printf(", \"age\": %u}\n", action.age());
    due = std::max(due + period, Clock::now());
    std::this_thread::sleep_until(due);
  }
  std::cerr << run.finish().steps() << " steps\n";
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::cerr << "usage: client ADDRESS[,ADDRESS...] ELEMENT[,ELEMENT...] [STEPS]\n";
    return 2;
  }
  try {
    run(split(words[1]), split(words[2]), count > 3 ? std::atoi(words[3]) : 280);
  } catch (const Lost& error) {
    std::cerr << error.what() << "\n";
    return 4;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
