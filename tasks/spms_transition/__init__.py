"""When will relapsing disease turn into secondary progression? (by the objective rule of Lorscheider 2016)"""
