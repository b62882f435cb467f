// scenarios.cpp - driver/wdm on the made-up kernel. Without arguments it lists the scenarios. With a name it runs that
// scenario, and ends with 1 and a reason if a check fails.

#include "scenarios.h"

int main(int count, char** arguments) {
    constexpr struct {
        const char* name;
        void (*run)();
    } kScenarios[] = {
#define SCENARIO(name) {#name, scenarios::name},
        SCENARIOS(SCENARIO)
#undef SCENARIO
    };
    for (const auto& scenario : kScenarios) {
        if (count < 2) {
            puts(scenario.name);
        } else if (strcmp(arguments[1], scenario.name) == 0) {
            scenarios::furnish();
            scenario.run();
            fake::end_all_processes();
            return 0;
        }
    }
    return count < 2 ? 0 : 2;
}
