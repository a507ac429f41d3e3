"""How long a policy's run will take until its verdict, before it is started.

Pure: from a policy, the plan of its traffic and, if there is one, a pilot's
observations to `outlook.PolicyPlan`. `canary plan` reads the files and prints.
"""
