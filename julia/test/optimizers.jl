using Optimisers: Optimisers, AbstractRule
using PySciML: has_rate, is_rule, named_rule, rule_names, rule_state, rule_text, state_length, update_at!, with_rate, write_state!

"A rule whose state is no numbers."
struct Wordy <: AbstractRule end
Optimisers.init(::Wordy, x::AbstractArray) = "so far"

address(array) = Int(pointer(array))

"Updates by a rule whose state is numbers in between, each from a state made afresh."
function by_numbers(rule, theta, slopes, rate)
    start, theta, state = copy(theta), copy(theta), rule_state(rule, address(theta), length(theta))
    numbers = zeros(state_length(state))
    write_state!(state, address(numbers))
    for slope in slopes
        fresh = rule_state(rule, address(start), length(start))
        update_at!(fresh, address(theta), length(theta), address(slope), address(numbers), rate)
    end
    return theta
end

@testset "rules of Optimisers.jl move numbers as they do by themselves" begin
    theta, slopes = [1.0, -2.0, 3.0], [[0.1, 0.2k, sin(k)] for k in 1:7]
    @test "AdaBelief" in rule_names()
    by_name = named_rule.(rule_names())
    chain = Optimisers.OptimiserChain(Optimisers.ClipNorm(1.0), Optimisers.AccumGrad(2), Optimisers.Adam(1.0f-3))
    @testset "$rule" for rule in [by_name; Optimisers.AdaDelta(); chain; Optimisers.MixedPrecision(Optimisers.RAdam())]
        @test is_rule(rule)
        for (first, rate) in ((rule, NaN), (with_rate(rule, 0.01), 0.02))
            alone = copy(theta)
            state = Optimisers.setup(first, alone)
            isnan(rate) || Optimisers.adjust!(state, rate)
            foreach(slope -> Optimisers.update!(state, alone, copy(slope)), slopes)
            @test alone != theta
            @test by_numbers(first, theta, slopes, rate) == alone
        end
    end
    @test all(has_rate, by_name) && has_rate(chain) && !has_rate(Optimisers.AdaDelta())
    @test rule_text(Optimisers.Adam(0.1)) == "Adam(eta=0.1, beta=(0.9, 0.999), epsilon=1.0e-8)"
    @test !is_rule(sin)
    @test_throws "its state has a String" state_length(rule_state(Wordy(), address(theta), 3))
end
