module PySciMLJumpProcessesExt

using JumpProcesses: JumpProcesses, ConstantRateJump, DirectFW, FRMFW, JumpProblem, JumpSet, NRM, SSAStepper, SortingDirect
using JumpProcesses: reset_aggregated_jumps!
using PrecompileTools: @compile_workload
using PySciML: PySciML, Aggregator, EventLog, Jump, Model, Vec
using Random: Xoshiro
using SciMLBase: CallbackSet, DiscreteProblem, ReturnCode, init, solve!, step!, terminate!

struct Rate
    jump::Jump
    number::Int
end

(rate::Rate)(u, p, t) = PySciML.rate_of(rate.jump, rate.number, u, p, t)

struct Affect
    jump::Jump
    buffer::Vec
    log::EventLog
    limit::Int
end

function (affect::Affect)(integrator)
    PySciML.set_states!(integrator.u, affect.jump, affect.buffer, integrator.p, integrator.t)
    affect.log.jumps += 1
    affect.log.jumps >= affect.limit && terminate!(integrator, ReturnCode.MaxIters)
    return nothing
end

# Those with function wrappers are compiled once for any number of jumps.
method(name::Symbol) =
    name === :FRM ? FRMFW() : name === :SortingDirect ? SortingDirect() : name === :NRM ? NRM() : DirectFW()

function PySciML.pure_integrator(model::Model, aggregator::Aggregator, u::Vec, p::Vec, t0, t1, times, limit, seed, log, made, stops)
    jumps = [
        ConstantRateJump(Rate(jump, k), Affect(jump, zeros(length(jump.targets)), log, limit)) for
        (k, jump) in enumerate(model.jumps)
    ]
    saves = times === nothing
    graph = aggregator.name in (:SortingDirect, :NRM) ? (; dep_graph = PySciML.dependencies(model.jumps)) : (;)
    problem = JumpProblem(
        DiscreteProblem(u, (t0, t1), p), method(aggregator.name), JumpSet((), jumps, nothing, nothing);
        rng = Xoshiro(seed), save_positions = (false, saves), graph...,
    )
    ends = saves ? (;) : (; saveat = times, save_end = last(times) == t1)
    # The problem is this solve's own, on whichever thread it runs.
    return init(problem, SSAStepper(); callback = CallbackSet(made...), tstops = stops, alias_jump = true, ends...)
end

const Integrator = JumpProcesses.SSAIntegrator

function PySciML.work!(integrator::Integrator, _, deadline::UInt64)
    steps = 0
    while JumpProcesses.should_continue_solve(integrator)
        step!(integrator)
        steps += 1
        steps & 63 == 0 && time_ns() > deadline && return false
    end
    integrator.sol.retcode == ReturnCode.Default && solve!(integrator) # what is left is the output after the last jump
    # SSAStepper cannot do without the start.
    times, saved = integrator.saveat, integrator.sol
    if times !== nothing && first(times) != first(saved.t)
        popfirst!(saved.t)
        popfirst!(saved.u)
    end
    return true
end

PySciML.states_changed!(integrator::Integrator) = reset_aggregated_jumps!(integrator)
PySciML.tidy!(::Integrator) = nothing
PySciML.counts(::Integrator, log::EventLog) = (log.jumps, 0, 0)
PySciML.n_saved(integrator::Integrator) = length(integrator.sol.t)

@compile_workload PySciML.workload("jump", "")

end
